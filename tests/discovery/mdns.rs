//! The local network, as two network namespaces joined by a bridge. It needs user namespaces and
//! `ip`; where these lack, the tests say so and pass.

use super::make_file;
use std::{path::Path, process::Command};

/// Makes the two networks, and runs `$1` in them with the shell.
const NAMESPACES: &str = r#"
set -e
mount -t tmpfs tmpfs /run
mkdir /run/netns
ip link set lo up
ip link add br0 type bridge mcast_snooping 0
ip link set br0 up
n=0
for name in a b; do
  n=$((n + 1))
  ip netns add $name
  ip link add name $name type veth peer name eth0 netns $name
  ip link set dev $name master br0 up
  ip netns exec $name ip addr add 10.7.0.$n/24 dev eth0
  ip netns exec $name ip link set eth0 up
  ip netns exec $name ip link set lo up
done
run() { name=$1; shift; ip netns exec $name "$BARROW" --data-dir "$DIR/$name" "$@"; }
start() {
  name=$1; shift
  ip netns exec $name "$BARROW" --data-dir "$DIR/$name" serve --log debug \
    --listen 0.0.0.0:4780 --no-dht "$@" 2> "$DIR/$name.log" &
  echo $! >> "$DIR/pids"
  for wait in $(seq 500); do test -e "$DIR/$name/node.json" && return; sleep 0.02; done
  echo "$name did not start"; exit 1
}
now() { date +%s%3N; }
sent() { ip netns exec $1 cat /sys/class/net/eth0/statistics/tx_bytes; }
trap 'kill $(cat "$DIR/pids") 2> /dev/null || true' EXIT
eval "$1"
"#;

/// Runs a script in two joined networks; `None` if they cannot be made here.
fn in_two_networks(dir: &Path, script: &str) -> Option<String> {
    let probe = "mount -t tmpfs tmpfs /run && ip link add br0 type bridge";
    let may = Command::new("unshare").args(["-Urnm", "sh", "-c", probe]).output();
    if !may.is_ok_and(|probe| probe.status.success()) {
        eprintln!("skipped: no network namespaces can be made here");
        return None;
    }
    let output = Command::new("unshare")
        .args(["-Urnm", "sh", "-c", NAMESPACES, "sh", script])
        .env("BARROW", super::node::BARROW)
        .env("DIR", dir)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let log = |name| std::fs::read_to_string(dir.join(name)).unwrap_or_default();
    assert!(
        output.status.success(),
        "{text}{errors}--- a\n{}--- b\n{}",
        log("a.log"),
        log("b.log")
    );
    Some(text)
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

#[test]
fn two_nodes_on_a_network_find_each_other_without_being_told() {
    let dir = tempfile::tempdir().unwrap();
    make_file(&dir.path().join("file"), 3 << 20, 400);
    let script = r#"
        start a; start b
        CID=$(run a put "$DIR/file")
        began=$(now)
        run b get $CID -o "$DIR/got"
        echo elapsed $(($(now) - began))
        cmp "$DIR/file" "$DIR/got"
        run b peers --json
    "#;
    let Some(said) = in_two_networks(dir.path(), script) else { return };
    eprintln!("mDNS: all 3 MiB after {} ms", number(&said, "elapsed"));
    assert!(number(&said, "elapsed") < 3_000, "{said}");
    assert!(said.contains(r#""source":"mdns""#), "{said}");
}

#[test]
fn nodes_of_another_swarm_are_not_found() {
    let dir = tempfile::tempdir().unwrap();
    make_file(&dir.path().join("file"), 1 << 20, 401);
    let script = r#"
        printf '%064d' 1 > "$DIR/one"; printf '%064d' 2 > "$DIR/two"
        start a --swarm-key-file "$DIR/one"; start b --swarm-key-file "$DIR/two"
        CID=$(run a put "$DIR/file")
        if run b get $CID -o "$DIR/got" 2> /dev/null; then echo it was found; exit 1; fi
        ! grep -q dialing "$DIR/b.log"
        kill $(tail -n 1 "$DIR/pids")
        while test -e /proc/$(tail -n 1 "$DIR/pids"); do sleep 0.02; done
        start b --swarm-key-file "$DIR/one"
        run b get $CID -o "$DIR/got"
        cmp "$DIR/file" "$DIR/got"
    "#;
    in_two_networks(dir.path(), script);
}

/// `BARROW_IDLE_S` sets for how long each node is idle (5 s).
#[test]
fn an_idle_node_sends_nothing() {
    let seconds = std::env::var("BARROW_IDLE_S").map_or(5, |text| text.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        r#"
        # The kernel's own questions for routers are none of the node's.
        for name in a b; do
            ip netns exec $name sh -c 'echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6'
        done
        start a --no-mdns; start b
        pid() {{ sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$DIR/$1/node.json"; }}
        ticks() {{ awk '{{ print $14 + $15 }}' /proc/$(pid $1)/stat; }}
        # The announcements of mDNS at its start are over by then.
        sleep 6
        for name in a b; do sent $name > "$DIR/sent-$name"; ticks $name > "$DIR/ticks-$name"; done
        sleep {seconds}
        for name in a b; do
            echo sent-$name $(($(sent $name) - $(cat "$DIR/sent-$name")))
            echo ticks-$name $(($(ticks $name) - $(cat "$DIR/ticks-$name")))
        done
        "#
    );
    let Some(said) = in_two_networks(dir.path(), &script) else { return };
    for (name, what) in [("a", "all off"), ("b", "mDNS on")] {
        let (sent, ticks) =
            (number(&said, &format!("sent-{name}")), number(&said, &format!("ticks-{name}")));
        eprintln!("idle for {seconds} s, {what}: {sent} bytes sent, {} ms of CPU", ticks * 10);
        assert!(ticks * 10 <= seconds, "{what}: {} ms of CPU, over 0.1 % and a tick", ticks * 10);
    }
    assert_eq!(number(&said, "sent-a"), 0, "{said}");
}
