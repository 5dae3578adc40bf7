//! Delegated routers: `GET /routing/v1/providers/{cid}` of Routing V1, over plain HTTP.

use super::{Answers, Hint, LookUpId, Provider, SOURCE_QUEUE_MAX, multiaddr};
use crate::net::http_client::{Content, Request, Url};
use barrow_wire::{Cid, Codec, Multihash};
use crossbeam::channel::{Sender, bounded};
use serde::Deserialize;
use std::{
    io::{self, Read as _},
    net::IpAddr,
    time::{Duration, Instant},
};

/// A router must have answered in this time.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// A look-up that waited so long for the ones before it is not asked any more.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of an answer at most.
const ANSWER_BYTES_MAX: u64 = 256 << 10;
/// How a barrow names its own protocol to routers.
pub(crate) const PROTOCOL: &str = "barrow";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Providers", default)]
    providers: Vec<Record>,
}

/// What a router says of a provider. Other schemas than `peer` have other fields.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Record {
    #[serde(default)]
    schema: String,
    #[serde(rename = "ID", default)]
    id: String,
    #[serde(default)]
    addrs: Vec<String>,
    #[serde(default)]
    protocols: Vec<String>,
}

/// One router, and the thread that asks it.
pub(super) struct Router {
    questions: Option<Sender<(LookUpId, Multihash, Instant)>>,
}

impl Router {
    pub(super) fn start(url: &str, answers: Answers) -> io::Result<Self> {
        let (questions, inbox) = bounded::<(LookUpId, Multihash, Instant)>(SOURCE_QUEUE_MAX);
        let url = format!("{}/routing/v1/providers", url.trim_end_matches('/'));
        let thread = std::thread::Builder::new().name("router".into());
        thread.spawn(move || {
            for (look_up, hash, since) in inbox {
                if since.elapsed() < WAIT_MAX {
                    match ask(&url, hash) {
                        Ok(hints) => answers.found(look_up, hints),
                        Err(error) => log::debug!("{url}: {error}"),
                    }
                }
                answers.finished(look_up);
            }
        })?;
        Ok(Self { questions: Some(questions) })
    }
}

impl Provider for Router {
    fn look_up(&mut self, look_up: LookUpId, hash: Multihash) -> bool {
        let question = (look_up, hash, Instant::now());
        self.questions.as_ref().is_some_and(|questions| questions.try_send(question).is_ok())
    }

    fn answers_others(&self) -> bool {
        false
    }

    fn stop(&mut self) {
        // The thread ends after the answer that it waits for, which nobody needs to see.
        self.questions = None;
    }
}

fn ask(url: &str, hash: Multihash) -> io::Result<Vec<Hint>> {
    // Routers look at the multihash alone.
    let url = format!("{url}/{}", Cid::v1(Codec::Raw, hash));
    let url = Url::parse(&url).ok_or(io::ErrorKind::InvalidInput)?;
    let request = Request::new("GET", &url).header("Accept", "application/json");
    let response = request.within(ANSWER_TIME).send(Content::None)?;
    if response.status != 200 {
        // Wherever a router might send us on to was not configured.
        return Err(io::Error::other(format!("it answers {}", response.status)));
    }
    let mut body = Vec::new();
    response.take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
    Ok(read(&body))
}

fn read(body: &[u8]) -> Vec<Hint> {
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else { return Vec::new() };
    let ours = |record: &Record| {
        let speaks = record.protocols.is_empty() || record.protocols.iter().any(|p| p == PROTOCOL);
        record.schema == "peer" && speaks
    };
    let hints = |record: Record| {
        let id = record.id.parse().ok();
        let addresses = record.addrs.into_iter().filter_map(|text| multiaddr::parse(&text));
        let hints = addresses.map(move |(address, peer)| Hint { address, peer: peer.or(id) });
        hints.collect::<Vec<_>>()
    };
    answer.providers.into_iter().filter(ours).flat_map(hints).collect()
}

/// The address in a router's URL, if it is one and no name.
pub(super) fn ip_of(url: &str) -> Option<IpAddr> {
    let host = url.strip_prefix("http://")?.split('/').next()?;
    let address = host.parse::<std::net::SocketAddr>().map(|address| address.ip());
    address.or_else(|_| host.trim_matches(['[', ']']).parse()).ok()
}

/// Checks what `--router` was given.
///
/// # Errors
/// What is wrong with it, for people.
pub(crate) fn check(url: &str) -> Result<(), String> {
    if url.starts_with("https://") {
        return Err("https is not spoken here, put a proxy before it".into());
    }
    match Url::parse(url) {
        Some(_) if !url.contains('?') => Ok(()),
        Some(_) | None => Err("http://HOST:PORT is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_peers_that_speak_our_protocol_at_plain_addresses_are_taken() {
        let body = br#"{"Providers":[
            {"Schema":"peer","ID":"x","Addrs":["/ip4/192.0.2.1/tcp/1"],"Protocols":["barrow"]},
            {"Schema":"peer","ID":"x","Addrs":["/ip4/192.0.2.2/tcp/2"],"Protocols":["transport-bitswap"]},
            {"Schema":"peer","ID":"x","Addrs":["/ip4/192.0.2.3/udp/3/quic-v1","/ip4/192.0.2.4/tcp/4"],"Extra":1},
            {"Schema":"bitswap","ID":"x","Addrs":["/ip4/192.0.2.5/tcp/5"]},
            {"Schema":"peer"}]}"#;
        let ports: Vec<u16> = read(body).iter().map(|hint| hint.address.port()).collect();
        assert_eq!(ports, [1, 4]);
        for nonsense in [&b""[..], b"{}", b"[]", b"{\"Providers\":{}}", b"\xff"] {
            assert!(read(nonsense).is_empty());
        }
    }

    #[test]
    fn routers_are_given_by_plain_urls() {
        assert!(check("http://127.0.0.1:4781").is_ok());
        assert!(check("http://router.example/").is_ok());
        for wrong in ["https://router.example", "127.0.0.1:4781", "ftp://x", ""] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ip_of("http://127.0.0.1:4781/x"), "127.0.0.1".parse().ok());
        assert_eq!(ip_of("http://[::1]:4781"), "::1".parse().ok());
        assert_eq!(ip_of("http://[::1]"), "::1".parse().ok());
        assert_eq!(ip_of("http://router.example"), None);
    }
}
