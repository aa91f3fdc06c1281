pub mod earning;
pub mod spending;
