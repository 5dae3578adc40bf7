//! Who may ask for what: Host and Origin on every route, a token for writes off loopback.

use crate::{base::config::Config, node::write_secret, web::gate::Head};
use data_encoding::{BASE64, HEXLOWER};
use std::{
    fs, io,
    io::Read as _,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::atomic::{AtomicU16, Ordering},
};

/// Bytes of randomness in an API token.
const TOKEN_BYTES: usize = 32;

/// What is refused before a handler sees it.
pub(super) struct Policy {
    address: IpAddr,
    /// Known once the gate is bound.
    port: AtomicU16,
    hosts: Vec<String>,
    origins: Vec<String>,
    token: String,
}

type Refusal = (u16, &'static str, String);

impl Policy {
    pub(super) fn new(config: &Config, address: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            address: address.ip(),
            port: AtomicU16::new(address.port()),
            hosts: config.allow_hosts.clone(),
            origins: config.allow_origins.clone(),
            token: api_token(&config.data_dir)?,
        })
    }

    pub(super) fn set_port(&self, port: u16) {
        self.port.store(port, Ordering::Relaxed);
    }

    /// Refuses what must not be answered.
    pub(super) fn check(&self, head: &Head) -> Result<(), Refusal> {
        let host = head.get("host").unwrap_or_default();
        if !self.knows_host(host) {
            let message = format!("the name {host:?} is not this node's; see --allow-host");
            return Err((403, "foreign_host", message));
        }
        let reads = matches!(&head.method[..], "GET" | "HEAD" | "OPTIONS");
        let public = head.target.starts_with("/ipfs/") || head.target.starts_with("/routing/");
        if let Some(origin) = head.get("origin")
            && !(reads && public)
            && !self.knows_origin(origin)
        {
            let message = format!("pages of {origin:?} may not do this; see --allow-origin");
            return Err((403, "foreign_origin", message));
        }
        if !reads && !self.address.is_loopback() && !self.has_token(head) {
            let message = "writes need the token of the file api-token".into();
            return Err((401, "token_needed", message));
        }
        Ok(())
    }

    fn knows_host(&self, host: &str) -> bool {
        let port = self.port.load(Ordering::Relaxed);
        let name = match host.rsplit_once(':') {
            // An IPv6 address without a port ends with its bracket.
            Some((name, digits)) if !digits.ends_with(']') => {
                if digits.parse() != Ok(port) {
                    return false;
                }
                name
            }
            _ => host,
        };
        let own = match self.address {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let allowed = |allowed: &String| allowed.eq_ignore_ascii_case(name);
        name == own || name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(allowed)
    }

    fn knows_origin(&self, origin: &str) -> bool {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        own.is_some_and(|host| self.knows_host(host)) || self.origins.iter().any(|o| o == origin)
    }

    fn has_token(&self, head: &Head) -> bool {
        let given = head.get("authorization").unwrap_or_default();
        let token = match given.split_once(' ') {
            Some(("Bearer", token)) => token.to_owned(),
            Some(("Basic", text)) => {
                let text = BASE64.decode(text.as_bytes()).unwrap_or_default();
                let text = String::from_utf8(text).unwrap_or_default();
                text.split_once(':').map_or_else(String::new, |(_, password)| password.to_owned())
            }
            Some(_) | None => return false,
        };
        equal_in_constant_time(token.as_bytes(), self.token.as_bytes())
    }
}

fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

/// Reads the token of a data directory, or makes one.
fn api_token(data_dir: &Path) -> io::Result<String> {
    let path = data_dir.join("api-token");
    match fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => Ok(token.trim().into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(_) | Err(_) => {
            let mut bytes = [0; TOKEN_BYTES];
            fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
            let token = HEXLOWER.encode(&bytes);
            write_secret(&path, format!("{token}\n").as_bytes())?;
            Ok(token)
        }
    }
}
