//! Where peers may be found.
