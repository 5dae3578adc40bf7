//! UPnP: the gateway's Internet Gateway Device, found by SSDP and asked by SOAP.
//!
//! Of XML only the insides of named elements are read, so that nothing is ever expanded. All of
//! it must lie at the gateway's own address.

use super::{LEASE, Mapper, Protocol, gateway::Gateway};
use crate::net::{
    discovery::router::ip_of,
    http_client::{Content, Request, Url},
};
use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Read as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

/// Where devices hear searches.
pub(super) const SEARCH_ADDRESS: SocketAddrV4 =
    SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
const SEARCH: &[u8] = b"M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\
    MAN: \"ssdp:discover\"\r\nMX: 1\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
/// Times that a search is sent, as datagrams get lost.
const SEARCHES: usize = 2;
/// Devices answer within a second (`MX`); a little more for those that are slow.
const SEARCH_TIME: Duration = Duration::from_millis(1_200);
/// Bytes of a device's answer to a search that are read.
const FOUND_BYTES_MAX: usize = 2_048;
const FOUND_HEADERS_MAX: usize = 32;
/// Bytes of a description or an answer at most.
const XML_BYTES_MAX: u64 = 64 << 10;
/// A description or an answer must have come in this time.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// What is said at a stop has less time.
const GOODBYE_TIME: Duration = Duration::from_millis(400);
/// The services that map ports.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// Ports that are tried, one after the other, where others have them.
const PORTS_TRIED: u16 = 4;
/// The port is another's.
const CONFLICT: u32 = 718;
/// Leases have no end there.
const ONLY_PERMANENT: u32 = 725;

/// A gateway that speaks it.
pub(super) struct Upnp {
    control: Url,
    service: &'static str,
    ours: Ipv4Addr,
}

/// Why something was not done.
#[derive(Debug)]
enum Failure {
    Refused(u32),
    Io(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(code) => Self::other(format!("it refuses, with code {code}")),
            Failure::Io(error) => error,
        }
    }
}

impl Upnp {
    /// Looks for it at `search`, and reads what it says of itself.
    pub(super) fn find(gateway: &Gateway, search: SocketAddrV4) -> io::Result<Self> {
        let location = locate(gateway, search)?;
        let url = Url::parse(&location).ok_or(ErrorKind::InvalidData)?;
        let response = Request::new("GET", &url).within(ANSWER_TIME).send(Content::None)?;
        if !response.is_success() {
            return Err(io::Error::other(format!("it answers {}", response.status)));
        }
        let mut xml = Vec::new();
        response.take(XML_BYTES_MAX).read_to_end(&mut xml)?;
        let (service, control) = control(&String::from_utf8_lossy(&xml), &location)
            .ok_or_else(|| io::Error::other("its description names no service that maps ports"))?;
        Ok(Self { control, service, ours: gateway.ours })
    }

    /// Has it do something, and gives what it says to that.
    fn call(
        &self,
        action: &str,
        arguments: &[(&str, &str)],
        time: Duration,
    ) -> Result<String, Failure> {
        let mut envelope = String::from(
            "<?xml version=\"1.0\"?><s:Envelope \
             xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>",
        );
        let _ = write!(envelope, "<u:{action} xmlns:u=\"{}\">", self.service);
        for (name, value) in arguments {
            let _ = write!(envelope, "<{name}>{value}</{name}>");
        }
        let _ = write!(envelope, "</u:{action}></s:Body></s:Envelope>");
        let request = Request::new("POST", &self.control)
            .header("Content-Type", "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", format_args!("\"{}#{action}\"", self.service));
        let response = request.within(time).send(Content::Bytes(envelope.as_bytes()))?;
        let (status, is_success) = (response.status, response.is_success());
        let mut xml = Vec::new();
        response.take(XML_BYTES_MAX).read_to_end(&mut xml)?;
        let xml = String::from_utf8_lossy(&xml).into_owned();
        if is_success {
            return Ok(xml);
        }
        let code = element(&xml, "errorCode").and_then(|code| code.parse().ok());
        Err(Failure::Refused(code.unwrap_or(status.into())))
    }

    fn add(
        &self,
        protocol: Protocol,
        port: u16,
        external: u16,
        lease: Duration,
    ) -> Result<(), Failure> {
        let (ours, port) = (self.ours.to_string(), port.to_string());
        let (external, lease) = (external.to_string(), lease.as_secs().to_string());
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &external),
            ("NewProtocol", protocol.name()),
            ("NewInternalPort", &port),
            ("NewInternalClient", &ours),
            ("NewEnabled", "1"),
            ("NewPortMappingDescription", "barrow"),
            ("NewLeaseDuration", &lease),
        ];
        self.call("AddPortMapping", &arguments, ANSWER_TIME).map(|_| ())
    }
}

impl Mapper for Upnp {
    fn name(&self) -> &'static str {
        "UPnP"
    }

    fn external_ip(&mut self) -> io::Result<Ipv4Addr> {
        let xml = self.call("GetExternalIPAddress", &[], ANSWER_TIME)?;
        let ip = element(&xml, "NewExternalIPAddress").and_then(|ip| ip.parse().ok());
        ip.ok_or_else(|| io::Error::other("it knows no address of its own"))
    }

    fn map(&mut self, protocol: Protocol, port: u16, external: u16) -> io::Result<(u16, Duration)> {
        for external in (external..=u16::MAX).take(PORTS_TRIED.into()) {
            let mut added = self.add(protocol, port, external, LEASE);
            if matches!(added, Err(Failure::Refused(ONLY_PERMANENT))) {
                added = self.add(protocol, port, external, Duration::ZERO);
            }
            match added {
                Ok(()) => return Ok((external, LEASE)),
                Err(Failure::Refused(CONFLICT)) => {}
                Err(failure) => return Err(failure.into()),
            }
        }
        Err(Failure::Refused(CONFLICT).into())
    }

    fn unmap(&mut self, protocol: Protocol, _port: u16, external: u16) -> io::Result<()> {
        let external = external.to_string();
        let arguments = [
            ("NewRemoteHost", ""),
            ("NewExternalPort", &external[..]),
            ("NewProtocol", protocol.name()),
        ];
        self.call("DeletePortMapping", &arguments, GOODBYE_TIME)?;
        Ok(())
    }
}

/// Where the gateway describes itself. Others that answer are not heard.
fn locate(gateway: &Gateway, search: SocketAddrV4) -> io::Result<String> {
    let socket = UdpSocket::bind((gateway.ours, 0))?;
    for _ in 0..SEARCHES {
        socket.send_to(SEARCH, search)?;
        let until = Instant::now() + SEARCH_TIME;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            socket.set_read_timeout(Some(left))?;
            let mut found = [0; FOUND_BYTES_MAX];
            match socket.recv_from(&mut found) {
                Ok((len, SocketAddr::V4(from))) if *from.ip() == gateway.ip => {
                    if let Some(location) = location(&found[..len], gateway.ip) {
                        return Ok(location);
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "no answer"))
}

/// The URL in an answer to a search, if it leads to the gateway.
fn location(found: &[u8], gateway: Ipv4Addr) -> Option<String> {
    let mut headers = [httparse::EMPTY_HEADER; FOUND_HEADERS_MAX];
    let mut head = httparse::Response::new(&mut headers);
    head.parse(found).ok()?;
    let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("location"))?;
    let location = std::str::from_utf8(header.value).ok()?.trim();
    let is_theirs = head.code == Some(200) && ip_of(location) == Some(IpAddr::V4(gateway));
    is_theirs.then(|| location.to_owned())
}

/// The service that maps ports, and where it is asked: on the machine that described it.
fn control(xml: &str, location: &str) -> Option<(&'static str, Url)> {
    let services = xml.split("<service>").skip(1).filter_map(|service| {
        let kind = element(service, "serviceType")?;
        Some((SERVICES.into_iter().find(|known| *known == kind)?, element(service, "controlURL")?))
    });
    let origin_end = location.get(7..)?.find('/').map_or(location.len(), |at| at + 7);
    let origin = location.get(..origin_end)?;
    let at = |path: &str| match path.starts_with("http://") {
        true if ip_of(path) == ip_of(location) => Url::parse(path),
        true => None,
        false => Url::parse(&format!("{origin}/{}", path.trim_start_matches('/'))),
    };
    services.into_iter().find_map(|(service, path)| Some((service, at(path)?)))
}

/// What stands in the first element of this name, which has no elements in it.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let inside = xml.match_indices(&format!("<{name}")).find_map(|(at, start)| {
        let rest = &xml[at + start.len()..];
        let is_whole = rest.starts_with(|c: char| c == '>' || c.is_ascii_whitespace());
        rest.split_once('>').filter(|_| is_whole).map(|(_, inside)| inside)
    })?;
    let (text, end) = inside.split_once('<')?;
    end.starts_with(&format!("/{name}")).then(|| text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        net::{TcpListener, TcpStream},
        thread,
    };

    const HOME: Gateway = Gateway { ip: Ipv4Addr::LOCALHOST, ours: Ipv4Addr::LOCALHOST };

    fn found(location: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nST: x\r\nLocation: {location}\r\n\r\n").into_bytes()
    }

    #[test]
    fn only_what_lies_at_the_gateway_is_believed() {
        let gateway = Ipv4Addr::new(192, 168, 1, 1);
        let good = "http://192.168.1.1:5000/root.xml";
        assert_eq!(location(&found(good), gateway).as_deref(), Some(good));
        for wrong in [
            "http://192.168.1.2:5000/root.xml",
            "http://192.168.1.1@192.168.1.2/",
            "http://192.168.1.1.example/",
            "https://192.168.1.1/",
            "file:///etc/passwd",
            "",
        ] {
            assert_eq!(location(&found(wrong), gateway), None, "{wrong}");
        }
        assert_eq!(
            location(b"HTTP/1.1 404 No\r\nLocation: http://192.168.1.1/\r\n\r\n", gateway),
            None
        );
        assert_eq!(location(b"\xff\xfe", gateway), None);

        let described = |path: &str| {
            let xml = format!(
                "<service><serviceType>urn:x:Layer3:1</serviceType><controlURL>/no</controlURL></service>\
                 <service>\n<serviceType>{}</serviceType>\n<controlURL> {path} </controlURL></service>",
                SERVICES[0]
            );
            control(&xml, good).map(|(_, url)| url)
        };
        assert_eq!(described("/ctl/IPConn"), Url::parse("http://192.168.1.1:5000/ctl/IPConn"));
        assert_eq!(described("ctl"), Url::parse("http://192.168.1.1:5000/ctl"));
        assert_eq!(described("http://192.168.1.1:9/c"), Url::parse("http://192.168.1.1:9/c"));
        assert_eq!(described("http://192.168.1.2:5000/c"), None);
        assert_eq!(described("/a b"), None);
        assert_eq!(control("<service><service><controlURL>", good), None);
    }

    #[test]
    fn elements_are_read_and_nothing_is_expanded() {
        assert_eq!(element("<a><b x='1'> 5 </b></a>", "b"), Some("5"));
        assert_eq!(element("<bb>1</bb><b>2</b>", "b"), Some("2"));
        assert_eq!(element("<b>&lol9;</b>", "b"), Some("&lol9;"));
        for wrong in ["<b>1", "<b", "<b><c/></b>", "<b>1</c>", ""] {
            assert_eq!(element(wrong, "b"), None, "{wrong}");
        }
    }

    /// Reads one request as far as its declared length goes.
    fn request(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        let mut bytes = [0; 4_096];
        loop {
            let len = stream.read(&mut bytes).unwrap();
            text.push_str(std::str::from_utf8(&bytes[..len]).unwrap());
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if len == 0 || body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
    }

    /// A device that gives `answers`, and hands back what it was asked.
    fn device(answers: Vec<(u16, String)>) -> (SocketAddrV4, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ssdp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let SocketAddr::V4(search) = ssdp.local_addr().unwrap() else { unreachable!() };
        let location = format!("http://{}/root.xml", listener.local_addr().unwrap());
        let thread = thread::spawn(move || {
            let (_, from) = ssdp.recv_from(&mut [0; 1_024]).unwrap();
            for answer in [found("http://10.9.9.9/root.xml"), found(&location)] {
                ssdp.send_to(&answer, from).unwrap();
            }
            let answer = |(status, body): (u16, String)| {
                let (mut stream, _) = listener.accept().unwrap();
                let asked = request(&mut stream);
                write!(stream, "HTTP/1.1 {status} X\r\n\r\n{body}").unwrap();
                asked
            };
            answers.into_iter().map(answer).collect()
        });
        (search, thread)
    }

    fn description() -> (u16, String) {
        let service = SERVICES[1];
        let xml = format!(
            "<root><service><serviceType>{service}</serviceType><controlURL>/c</controlURL>\
             </service></root>"
        );
        (200, xml)
    }

    #[test]
    fn a_port_that_another_has_gives_the_next_and_leases_may_be_endless() {
        let fault = |code: u32| (500, format!("<errorCode>{code}</errorCode>"));
        let ip = "<NewExternalIPAddress>51.15.7.1</NewExternalIPAddress>".to_owned();
        let done = (200, String::new());
        let answers = vec![description(), (200, ip), fault(718), fault(725), done.clone(), done];
        let (search, thread) = device(answers);
        let mut upnp = Upnp::find(&HOME, search).unwrap();
        assert_eq!(upnp.external_ip().unwrap(), Ipv4Addr::new(51, 15, 7, 1));
        assert_eq!(upnp.map(Protocol::Tcp, 4780, 4780).unwrap(), (4781, LEASE));
        upnp.unmap(Protocol::Tcp, 4780, 4781).unwrap();
        let asked = thread.join().unwrap();
        let leases: Vec<&str> =
            asked.iter().filter_map(|text| element(text, "NewLeaseDuration")).collect();
        assert_eq!(leases, ["3600", "3600", "0"]);
        let ports: Vec<&str> =
            asked.iter().filter_map(|text| element(text, "NewExternalPort")).collect();
        assert_eq!(ports, ["4780", "4781", "4781", "4781"]);
        assert!(asked[5].contains("#DeletePortMapping\"\r\n"), "{}", asked[5]);
    }

    #[test]
    fn a_description_without_end_or_sense_and_a_refusal_are_errors() {
        for body in ["<service>".repeat(100_000), String::new(), "\u{0}".repeat(10)] {
            let (search, _thread) = device(vec![(200, body)]);
            assert!(Upnp::find(&HOME, search).is_err());
        }
        let (search, _thread) = device(vec![description(), (500, "no XML".into())]);
        let mut upnp = Upnp::find(&HOME, search).unwrap();
        assert!(upnp.map(Protocol::Udp, 4780, 4780).is_err());
    }
}
