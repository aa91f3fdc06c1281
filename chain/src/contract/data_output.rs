//! Data in a transaction: an output of 0 satoshis that nobody can spend, `OP_FALSE OP_RETURN` and pushes (BRC-18).

use crate::amount::Satoshis;
use crate::script::{Op, Ops, Script, op};
use crate::tx::TxOut;

/// An output that carries `items`, each in one minimal push. Its value is 0: broadcasters refuse any other.
pub fn data_output(items: &[&[u8]]) -> TxOut {
    let start = Script::builder().op(op::FALSE).op(op::RETURN);
    let locking = items.iter().fold(start, |script, item| script.push(item)).build();
    TxOut { value: Satoshis::ZERO, locking }
}

/// The items of a data output. `None` if the script does not start with `OP_FALSE OP_RETURN`, or something else than
/// whole pushes follows. Pushes that are longer than needed are read too: what counts is the data.
pub fn parse_data_output(script: &Script) -> Option<Vec<Vec<u8>>> {
    let pushes = script.as_bytes().strip_prefix(&[op::FALSE, op::RETURN])?;
    Ops::new(pushes)
        .map(|step| match step {
            Ok(Op::Push { data, .. }) => Some(data.to_vec()),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn other_scripts_are_not_data() {
        assert_eq!(parse_data_output(&Script::p2pkh(&[0; 20])), None);
        assert_eq!(parse_data_output(&Script::new(vec![0x6a, 1, 7])), None);
        assert_eq!(parse_data_output(&Script::new(vec![0, 0x6a, 2, 7])), None);
        assert_eq!(parse_data_output(&Script::new(vec![0, 0x6a, 0x76])), None);
        assert_eq!(parse_data_output(&Script::new(vec![0, 0x6a])), Some(vec![]));
        assert_eq!(parse_data_output(&Script::new(vec![0, 0x6a, 0x4c, 1, 7])), Some(vec![vec![7]]));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..6)) {
            let output = data_output(&items.iter().map(Vec::as_slice).collect::<Vec<_>>());
            prop_assert!(output.value.is_zero() && output.locking.is_unspendable());
            prop_assert_eq!(parse_data_output(&output.locking), Some(items));
        }
    }
}
