//! Single readings: one order under which a buyer asks for the readings it wants, one after another, for as long as it likes.
//!
//! An order for a range is stored, begun, paid and receipted for each range, which costs each side some writes to its disk. Here all of that is
//! done once, and a reading is one question and one answer on an open stream of `/sensora/delivery/1`. Readings have *places* in the order: the
//! first that was answered has place 0. What is due is counted by place, as for a range; a reading that was asked for twice has one place
//! and is paid once ([`asked`]). After a break the buyer says how many places it has, and is told what was in the others.
//!
//! Neither side writes to its disk for each reading. The seller answers within a *grant* that is stored, and stores a larger one, with the
//! vouchers that came meanwhile, before it is used up. The buyer pays at most its exposure ahead of what it has stored, and stores
//! what it has verified in pieces. So a crash costs either side at most its exposure ([`serve`], [`ask`]).
//!
//! A reading is proven before it is paid, with as few hashes as its buyer needs ([`known`]). [`frame`] is what both say to each other, and
//! [`offer`] on which terms.

pub mod ask;
pub mod asked;
pub mod frame;
pub mod known;
pub mod offer;
pub mod serve;
