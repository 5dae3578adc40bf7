//! Who may ask for what: Host and Origin on every route, a token off loopback for writes and for
//! the lists of what is stored and who is connected.

use crate::{base::config::Config, node::write_secret, web::gate::Head};
use data_encoding::{BASE64, HEXLOWER};
use std::{
    fs, io,
    io::Read as _,
    net::{IpAddr, SocketAddr, UdpSocket},
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
        let reads = matches!(&head.method[..], "GET" | "HEAD" | "OPTIONS");
        let under = |folders: &[&str]| folders.iter().any(|one| head.target.starts_with(one));
        // Content is the same by whatever address it is reached; a name could be rebound.
        let by_address = reads && under(&["/ipfs/", "/ipns/", "/routing/"]);
        let is_known = self.knows_host(host) || by_address && ip_of(name_of(host).0).is_some();
        if !is_known {
            let message = format!("the name {host:?} is not this node's; see --allow-host");
            return Err((403, "foreign_host", message));
        }
        let public = under(&["/ipfs/", "/routing/"]);
        if let Some(origin) = head.get("origin")
            && !(reads && public)
            && !self.knows_origin(origin, host)
        {
            let message = format!("pages of {origin:?} may not do this; see --allow-origin");
            return Err((403, "foreign_origin", message));
        }
        let guarded = !reads || is_private_list(&head.target);
        if guarded && !self.address.is_loopback() && !self.has_token(head) {
            let message = "this needs the token of the file api-token, as Bearer or as a password";
            let message = message.into();
            return Err((401, "token_needed", message));
        }
        Ok(())
    }

    /// Whether a `Host` names this node, with any port: a forwarded port is another one.
    fn knows_host(&self, host: &str) -> bool {
        let (name, port) = name_of(host);
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            return false;
        }
        let allowed = |allowed: &String| allowed.eq_ignore_ascii_case(name);
        if name.eq_ignore_ascii_case("localhost") || self.hosts.iter().any(allowed) {
            return true;
        }
        let is_own = |ip: IpAddr| {
            ip == self.address || self.address.is_unspecified() && is_of_this_machine(ip)
        };
        ip_of(name).is_some_and(is_own)
    }

    /// Whether an `Origin` is the node's: that of the request's own host, or any name of the node
    /// with its port. Another port of this machine is another program.
    fn knows_origin(&self, origin: &str, host: &str) -> bool {
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        let is_own = own.is_some_and(|own| {
            let port = name_of(own).1.and_then(|port| port.parse().ok());
            let own_port = port == Some(self.port.load(Ordering::Relaxed));
            own.eq_ignore_ascii_case(host) || own_port && self.knows_host(own)
        });
        is_own || self.origins.iter().any(|allowed| allowed == origin)
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

/// Splits a host from its port, where it has one.
fn name_of(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        // An IPv6 address without a port ends with its bracket.
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Reads an IP address as a URL has it.
fn ip_of(name: &str) -> Option<IpAddr> {
    match name.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

/// Whether an address is this machine's: the kernel binds a socket to no other.
fn is_of_this_machine(ip: IpAddr) -> bool {
    !ip.is_multicast() && UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether a path tells what is stored here or who is connected, beyond what who asks knows.
fn is_private_list(target: &str) -> bool {
    let path = target.split('?').next().unwrap_or_default();
    let path = path.strip_prefix("/api/").unwrap_or_default();
    if let Some(own) = path.strip_prefix("v1/") {
        let noun = own.split('/').next().unwrap_or_default();
        return matches!(
            noun,
            "datasets"
                | "peers"
                | "transfers"
                | "events"
                | "ledger"
                | "spread"
                | "losses"
                | "names"
        );
    }
    let rest = path.split_once('/').map_or("", |(_, rest)| rest);
    matches!(rest, "v1/data" | "v1/debug/info")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(address: &str) -> Policy {
        Policy {
            address: address.parse().unwrap(),
            port: AtomicU16::new(4781),
            hosts: vec!["node.example".into()],
            origins: Vec::new(),
            token: "secret".into(),
        }
    }

    fn status(policy: &Policy, line: &str, headers: &str) -> u16 {
        let text = format!("{line} HTTP/1.1\r\n{headers}\r\n");
        let head = Head::parse(text.as_bytes()).unwrap().unwrap();
        policy.check(&head).map_or_else(|(status, ..)| status, |()| 200)
    }

    #[test]
    fn a_host_is_the_nodes_by_its_name_or_address_with_any_port() {
        let (own, any) = (policy("127.0.0.1"), policy("0.0.0.0"));
        for host in ["localhost", "127.0.0.1:1", "NODE.example:443", "127.0.0.1:4781"] {
            assert_eq!(status(&own, "GET /metrics", &format!("Host: {host}\r\n")), 200, "{host}");
        }
        for host in ["evil.example", "127.0.0.2", "2130706433", "localhost:80x", "[::1"] {
            assert_eq!(status(&own, "GET /metrics", &format!("Host: {host}\r\n")), 403, "{host}");
        }
        assert_eq!(status(&any, "GET /metrics", "Host: 127.0.0.1:9\r\n"), 200);
        assert_eq!(status(&any, "GET /metrics", "Host: 192.0.2.77\r\n"), 403);
        assert_eq!(status(&own, "GET /ipfs/bafkqaaa", "Host: 192.0.2.77:80\r\n"), 200);
        assert_eq!(status(&own, "GET /ipfs/bafkqaaa", "Host: evil.example\r\n"), 403);
        assert_eq!(status(&own, "POST /ipfs/bafkqaaa", "Host: 192.0.2.77\r\n"), 403);
    }

    #[test]
    fn an_origin_is_the_nodes_with_the_port_of_the_request_or_of_the_node() {
        let own = policy("127.0.0.1");
        let gc = |host: &str, origin: &str| {
            status(&own, "POST /api/v1/gc", &format!("Host: {host}\r\nOrigin: {origin}\r\n"))
        };
        assert_eq!(gc("localhost:4781", "http://127.0.0.1:4781"), 200);
        assert_eq!(gc("node.example", "https://node.example"), 200);
        assert_eq!(gc("127.0.0.1:4781", "http://127.0.0.1:8000"), 403);
        assert_eq!(gc("127.0.0.1:4781", "null"), 403);
    }

    #[test]
    fn off_loopback_lists_need_the_token_as_writes_do() {
        let (own, any) = (policy("127.0.0.1"), policy("0.0.0.0"));
        let host = "Host: 127.0.0.1:4781\r\n";
        let lists = [
            "/api/v1/datasets",
            "/api/v1/datasets?standing=true",
            "/api/v1/peers",
            "/api/v1/events",
            "/api/codex/v1/data",
            "/api/storage/v1/data?x",
            "/api/codex/v1/debug/info",
        ];
        for list in lists {
            for method in ["GET", "HEAD"] {
                assert_eq!(status(&any, &format!("{method} {list}"), host), 401, "{list}");
            }
            assert_eq!(status(&own, &format!("GET {list}"), host), 200, "{list}");
            let token = format!("{host}Authorization: Bearer secret\r\n");
            assert_eq!(status(&any, &format!("GET {list}"), &token), 200, "{list}");
        }
        assert_eq!(status(&any, "GET /api/v1/node", host), 200);
        assert_eq!(status(&any, "GET /api/codex/v1/data/bafkqaaa", host), 200);
        assert_eq!(status(&any, "POST /api/v1/gc", host), 401);
    }
}
