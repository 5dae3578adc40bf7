//! The event loop of the peers' sockets.
