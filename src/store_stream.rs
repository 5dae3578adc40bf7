//! A dataset as a stream of verified bytes.
