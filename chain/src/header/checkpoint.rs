//! Where each network is followed from: headers that come with this program.

use super::{Header, HeaderChain, HeaderError};
use crate::network::Network;

/// 147 headers in a row (`CHECKPOINT_HEADERS`), as many as the next difficulty is computed from.
struct Checkpoint {
    /// Height of the first of them.
    height: u32,
    headers: &'static [u8],
}

/// 887,754 to 887,900, of March 2025, the last one under a hundred blocks when it was taken.
const MAIN: Checkpoint = Checkpoint { height: 887_754, headers: include_bytes!("checkpoint/main.bin") };

/// 1,602,530 to 1,602,676.
const TEST: Checkpoint = Checkpoint { height: 1_602_530, headers: include_bytes!("checkpoint/test.bin") };

impl HeaderChain {
    /// The chain of a network up to its checkpoint: the first block on regtest, elsewhere headers that come with this
    /// program. They are believed; what builds on them is checked by all rules. There are no reorganisations below the
    /// last of them: a chain that does not have it is another network.
    ///
    /// # Errors
    /// [`HeaderError`] only if this program was built with other headers than its own.
    pub fn checkpoint(network: Network) -> Result<Self, HeaderError> {
        let Checkpoint { height, headers } = match network {
            Network::Regtest => return Self::genesis(network),
            Network::Main => MAIN,
            Network::Test => TEST,
        };
        Self::from_checkpoint(network, height, &Header::parse_run(headers)?)
    }
}
