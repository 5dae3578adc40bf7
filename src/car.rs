//! CARv1 in and out.
