//! trivisor runs one x86-64 guest three ways and measures the difference.
pub mod abi;
