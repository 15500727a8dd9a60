//! Paravirtualization.
mod child;
mod layout;
