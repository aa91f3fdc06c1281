//! What a chaintracks server answers, read without believing it.

use serde::Deserialize;

use crate::BlockHash;
use crate::header::{Header, Tip};
use crate::sources::http::{Read, json};

#[derive(Deserialize)]
struct TipBody {
    height: u32,
    hash: BlockHash,
}

/// Older servers wrap what they say: `{"status":"success","value":{…}}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum TipAnswer {
    Bare(TipBody),
    Wrapped { value: TipBody },
}

/// The end of the chain.
pub(in crate::sources) fn tip(bytes: &[u8]) -> Read<Tip> {
    let answer = json(bytes).map_err(|e| format!("a tip has a height and a hash ({e})"))?;
    let (TipAnswer::Bare(tip) | TipAnswer::Wrapped { value: tip }) = answer;
    Ok(Tip { height: tip.height, hash: tip.hash })
}

/// At most `count` whole headers.
pub(in crate::sources) fn headers(bytes: &[u8], count: usize) -> Read<Vec<Header>> {
    let headers = Header::parse_run(bytes).map_err(|e| e.to_string())?;
    if headers.len() > count {
        return Err(format!("{count} headers were asked for, it sends {}", headers.len()));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "000000000000000004a288072ebb35e37233f419918f9783d499979cb6ac33eb";

    #[test]
    fn a_tip_is_read_bare_and_wrapped() {
        let bare = format!(r#"{{"version":1,"merkleRoot":"00","height":575045,"hash":"{HASH}","bits":1}}"#);
        let expected = Tip { height: 575_045, hash: HASH.parse().unwrap() };
        assert_eq!(tip(bare.as_bytes()), Ok(expected));
        assert_eq!(tip(format!(r#"{{"status":"success","value":{bare}}}"#).as_bytes()), Ok(expected));
        for odd in [
            "{}",
            "null",
            r#"{"status":"error"}"#,
            r#"{"height":-1,"hash":""}"#,
            &format!(r#"{{"height":4294967296,"hash":"{HASH}"}}"#),
            r#"{"height":1,"hash":"00"}"#,
        ] {
            assert!(tip(odd.as_bytes()).is_err(), "{odd}");
        }
    }

    #[test]
    fn headers_are_whole_and_not_more_than_asked_for() {
        let header = Header::regtest_genesis();
        let run = [header.0, header.0].concat();
        assert_eq!(headers(&run, 2).unwrap(), [header, header]);
        assert_eq!(headers(&[], 2), Ok(vec![]));
        assert!(headers(&run, 1).is_err());
        assert!(headers(&run[1..], 2).is_err());
    }
}
