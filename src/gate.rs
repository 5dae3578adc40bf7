//! The event loop before tiny_http.
