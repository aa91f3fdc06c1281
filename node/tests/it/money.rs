//! Money: who refuses, who withholds, who spends twice, and blocks that vanish. Every satoshi stays accounted for.
