//! A node at home behind a real router: three network namespaces, with miniupnpd and nftables in
//! the one between the others. Where these lack, the tests say so and pass.

use super::make_file;
use std::{path::Path, process::Command};

/// Makes the networks, with `$1` in miniupnpd's configuration, and runs `$2` in them.
const NAMESPACES: &str = r#"
set -e
PATH=$PATH:/usr/sbin:/sbin
mount -t tmpfs tmpfs /run
mkdir /run/netns
for name in home router out; do
  ip netns add $name
  ip netns exec $name ip link set lo up
done
ip link add name lan netns router type veth peer name eth0 netns home
ip link add name wan netns router type veth peer name eth0 netns out
at() { ip -n $1 addr add $2 dev $3; ip -n $1 link set $3 up; }
at home 192.168.77.2/24 eth0; at router 192.168.77.1/24 lan
at router 51.15.7.1/24 wan; at out 51.15.7.2/24 eth0
ip -n home route add default via 192.168.77.1
ip netns exec router sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
cat > "$DIR/nft" <<END
table inet filter {
  chain forward {
    type filter hook forward priority 0; policy drop;
    ct state established,related accept
    iifname "lan" accept
    jump miniupnpd
  }
  chain miniupnpd { }
  chain prerouting { type nat hook prerouting priority -100; jump prerouting_miniupnpd; }
  chain postrouting {
    type nat hook postrouting priority 100;
    jump postrouting_miniupnpd
    oifname "wan" masquerade
  }
  chain prerouting_miniupnpd { }
  chain postrouting_miniupnpd { }
}
END
ip netns exec router nft -f "$DIR/nft"
cat > "$DIR/conf" <<END
ext_ifname=wan
listening_ip=lan
secure_mode=yes
uuid=c021413d-13b5-428f-b164-38bf114182d2
allow 1024-65535 192.168.77.0/24 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
$1
END
ip netns exec router miniupnpd -d -f "$DIR/conf" -P "$DIR/miniupnpd.pid" > "$DIR/router.log" 2>&1 &
echo $! > "$DIR/pids"
trap 'kill $(cat "$DIR/pids") 2> /dev/null || true' EXIT
sleep 0.5
run() { name=$1; shift; ip netns exec $name "$BARROW" --data-dir "$DIR/$name" "$@"; }
start() {
  name=$1; shift
  ip netns exec $name "$BARROW" --data-dir "$DIR/$name" serve --log debug \
    --listen 0.0.0.0:4780 --no-mdns "$@" 2> "$DIR/$name.log" &
  echo $! >> "$DIR/pids"
  for wait in $(seq 500); do test -e "$DIR/$name/node.json" && return; sleep 0.02; done
  echo "$name did not start"; exit 1
}
stop() {
  pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$DIR/$1/node.json")
  kill $pid
  while test -e /proc/$pid; do sleep 0.02; done
}
rules() { ip netns exec router nft list chain inet filter prerouting_miniupnpd; }
now() { date +%s%3N; }
until_says() {
  for wait in $(seq 500); do grep -q "$2" "$DIR/$1.log" && return; sleep 0.02; done
  echo "$1 never said: $2"; exit 1
}
eval "$2"
"#;

/// Runs a script with a router that has these settings; `None` if that cannot be done here.
fn behind_a_router(dir: &Path, settings: &str, script: &str) -> Option<String> {
    let probe = "PATH=$PATH:/usr/sbin:/sbin; command -v miniupnpd && mount -t tmpfs tmpfs /run \
                 && ip link add br0 type bridge && nft add table inet probe";
    let may = Command::new("unshare").args(["-Urnm", "sh", "-c", probe]).output();
    if !may.is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: no miniupnpd, no nft, or no network namespaces");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", NAMESPACES, "sh", settings, script])
        .env("BARROW", super::node::BARROW)
        .env("DIR", dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let log = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (home, router) = (log("home.log"), log("router.log"));
    assert!(output.status.success(), "{text}{errors}--- home\n{home}\n--- router\n{router}");
    Some(text)
}

/// From outside a node at home is dialed by its router's address, until it stops.
fn is_mapped_and_serves(settings: &str, by: &str) {
    let dir = tempfile::tempdir().unwrap();
    make_file(&dir.path().join("file"), 3 << 20, 500);
    let script = r#"
        began=$(now)
        start home
        until_says home 'maps 51.15.7.1:4780'
        echo elapsed $(($(now) - began))
        run home id
        rules
        CID=$(run home put "$DIR/file")
        start out --no-dht --peer 51.15.7.1:4780
        run out get $CID -o "$DIR/got"
        cmp "$DIR/file" "$DIR/got"
        run home id
        stop home
        echo after the stop
        rules
    "#;
    let Some(said) = behind_a_router(dir.path(), settings, script) else { return };
    let elapsed = said.lines().find_map(|line| line.strip_prefix("elapsed ")).unwrap();
    eprintln!("{by}: mapped {elapsed} ms after the start, and 3 MiB came that way");
    let (before, after) = said.split_once("after the stop").unwrap();
    assert!(before.contains(&format!("mapped by the router to 51.15.7.1:4780 ({by})")), "{said}");
    assert!(before.contains("\nreachable from outside"), "{said}");
    assert!(before.contains("dnat ip to 192.168.77.2:4780"), "{said}");
    assert!(!after.contains("dnat"), "{said}");
}

#[test]
fn a_router_that_speaks_nat_pmp_maps_the_port_until_the_node_stops() {
    is_mapped_and_serves("enable_natpmp=yes\nenable_upnp=no", "NAT-PMP");
}

#[test]
fn a_router_that_speaks_upnp_alone_maps_the_port_until_the_node_stops() {
    is_mapped_and_serves("enable_natpmp=no\nenable_upnp=yes", "UPnP");
}

#[test]
fn a_node_that_is_told_not_to_asks_no_router() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"
        sent() { ip netns exec home cat /sys/class/net/eth0/statistics/tx_bytes; }
        ip netns exec home sh -c 'echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6'
        before=$(sent)
        start home --no-dht
        sleep 3
        stop home
        test $(($(sent) - before)) = 0 || { echo "$(($(sent) - before)) bytes were sent"; exit 1; }
        start home --no-portmap --bootstrap 127.0.0.1:9
        sleep 3
        rules
        ! grep -q 'router maps' "$DIR/home.log"
    "#;
    let settings = "enable_natpmp=yes\nenable_upnp=yes";
    let Some(said) = behind_a_router(dir.path(), settings, script) else { return };
    assert!(!said.contains("dnat"), "{said}");
}
