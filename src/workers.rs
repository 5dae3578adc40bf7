//! The rayon workers: verify, encode, decode.
