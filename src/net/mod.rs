//! Everything that talks to other machines.
//!
//! Lives here: [`reactor`], the event loop that owns the peers' sockets and drives the engine;
//! [`discovery`], the clients of the DHT, multicast DNS and routers; [`http_client`], small requests
//! to routers and to a node's own API; [`identity`], the key file; and [`ledger`], the database of
//! debts, bans and addresses.
//!
//! May use: `wire`, [`crate::base`], [`crate::data`], [`crate::engine`], [`crate::store`].
//!
//! Begin with [`reactor`].

pub mod discovery;
pub mod http_client;
pub mod identity;
pub mod ledger;
pub mod reactor;
