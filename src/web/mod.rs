//! HTTP: the public sockets, the gateway, the API and the page.
//!
//! Lives here: [`gate`], the event loop that owns the clients' sockets and checks every request
//! before tiny_http sees it; and [`http`], the handlers behind it. A handler answers with a head and
//! a body that the gate pulls, so a slow client holds no thread.
//!
//! May use: every folder below it, [`crate::node`] included, but not [`crate::cli`].
//!
//! Begin with [`http`], where requests are routed, then [`gate`].

pub mod gate;
pub mod http;
