//! How fast a peer delivers, how far away it is, and so how much to ask of it at one time.

use super::Moment;
use std::time::Duration;

/// Bytes asked of a peer of which nothing is known yet.
const START_BYTES: u64 = 2 << 20;
/// Round trip taken for a peer that was never pinged.
const RTT_UNKNOWN: Duration = Duration::from_millis(50);
/// What both ends' disks and hashing add to a round trip, for which bytes must be asked ahead.
const WORK_TIME: Duration = Duration::from_millis(40);
/// The most that is asked of one peer at one time.
const PIPELINE_BYTES_MAX: u64 = 16 << 20;
/// A ping's answer is believed for so long.
const PING_EVERY: Duration = Duration::from_secs(10);

/// What was measured of a connection.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Pace {
    /// Bytes a second, once something was delivered.
    rate: Option<u64>,
    rtt: Option<Duration>,
    ping: Option<(u64, Moment)>,
    pinged_at: Option<Moment>,
    /// Bytes of blocks delivered since the connection stands, and when the last of them was.
    delivered: u64,
    delivered_at: Moment,
}

/// What had been delivered when a request was sent; with it a delivery yields a rate.
#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Mark {
    delivered: u64,
    at: Moment,
}

impl Pace {
    /// Starts from the rate that an earlier connection to the same peer had.
    pub(super) fn with_rate(rate: Option<u64>) -> Self {
        Self { rate, ..Self::default() }
    }

    /// Notes the state at which a request goes out; `idle` if no other is outstanding.
    pub(super) fn mark(&mut self, now: Moment, idle: bool) -> Mark {
        if idle {
            self.delivered_at = now;
        }
        Mark { delivered: self.delivered, at: self.delivered_at }
    }

    /// A block of `bytes`, asked for at `mark`, is here.
    pub(super) fn delivered(&mut self, now: Moment, bytes: u64, mark: Mark) {
        self.delivered += bytes;
        self.delivered_at = now;
        let sample = rate_of(self.delivered - mark.delivered, now.since(mark.at));
        self.rate = Some(match self.rate {
            None => sample,
            // Up quickly, so that a pipeline opens in a few round trips; down slowly.
            Some(rate) if sample > rate => rate / 2 + sample / 2,
            Some(rate) => rate / 8 * 7 + sample / 8,
        });
    }

    /// Only `bytes` came in `elapsed`, in which far more were due.
    pub(super) fn slowed(&mut self, bytes: u64, elapsed: Duration) {
        let sample = rate_of(bytes, elapsed);
        self.rate = Some(self.rate.map_or(sample, |rate| rate.min(sample)).max(1));
    }

    /// Whether a ping is worth its bytes now.
    pub(super) fn wants_ping(&self, now: Moment) -> bool {
        self.ping.is_none() && self.pinged_at.is_none_or(|at| now.since(at) >= PING_EVERY)
    }

    /// A ping was sent.
    pub(super) fn pinged(&mut self, now: Moment, nonce: u64) {
        self.ping = Some((nonce, now));
        self.pinged_at = Some(now);
    }

    /// A pong came. Pings that nobody sent teach nothing.
    pub(super) fn ponged(&mut self, now: Moment, nonce: u64) {
        let Some((sent, at)) = self.ping else { return };
        if sent != nonce {
            return;
        }
        self.ping = None;
        let sample = now.since(at);
        // A ping waits behind block bytes in the sockets: what is less is nearer to the truth.
        self.rtt = Some(match self.rtt {
            Some(rtt) if sample > rtt => (rtt * 7 + sample) / 8,
            Some(_) | None => sample,
        });
    }

    /// Bytes a second, if any were delivered.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }

    /// The round trip, or a guess at it.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt.unwrap_or(RTT_UNKNOWN)
    }

    /// The round trip, if it was measured.
    pub(super) fn rtt_measured(&self) -> Option<Duration> {
        self.rtt
    }

    /// How many bytes to keep asked for: bandwidth × delay, and as much again, so that a rate
    /// that could be higher is found out.
    pub(super) fn pipeline_bytes(&self) -> u64 {
        let Some(rate) = self.rate else { return START_BYTES };
        let micros = (self.rtt() * 5 / 2 + WORK_TIME).as_micros();
        let bytes = u128::from(rate) * micros / 1_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX).clamp(64 << 10, PIPELINE_BYTES_MAX)
    }

    /// How long `bytes` take that are on their way; `rate_unknown` stands in for a rate.
    pub(super) fn bytes_time(&self, bytes: u64, rate_unknown: u64) -> Duration {
        time_of(bytes, self.rate.unwrap_or(rate_unknown))
    }

    /// The peer is to be measured anew.
    pub(super) fn forget(&mut self) {
        self.rate = None;
    }
}

/// How long `bytes` take at a rate.
pub(super) fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

fn rate_of(bytes: u64, elapsed: Duration) -> u64 {
    let nanos = elapsed.as_nanos().max(1_000);
    u64::try_from(u128::from(bytes) * 1_000_000_000 / nanos).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A link with a rate and a delay, kept full to what the pace says.
    fn rate_found(bytes_per_second: u64, rtt: Duration, block: u64) -> (u64, u64) {
        let mut pace = Pace::default();
        pace.pinged(Moment::default(), 1);
        pace.ponged(Moment::at(rtt), 1);
        let mut now = Moment::at(rtt);
        let mut link_free = now;
        let mut under_way = std::collections::VecDeque::new();
        for _ in 0..400 {
            while under_way.len() < 2 || under_way.len() as u64 * block < pace.pipeline_bytes() {
                let mark = pace.mark(now, under_way.is_empty());
                let time = Duration::from_nanos(block * 1_000_000_000 / bytes_per_second);
                link_free = link_free.max(now.after(rtt / 2)).after(time);
                under_way.push_back((link_free.after(rtt / 2), mark));
            }
            let (at, mark) = under_way.pop_front().unwrap();
            now = at;
            pace.delivered(now, block, mark);
        }
        (pace.rate().unwrap(), pace.pipeline_bytes())
    }

    #[test]
    fn the_pipeline_grows_to_bandwidth_times_delay() {
        let (rate, pipeline) = rate_found(62_500_000, Duration::from_millis(100), 1 << 20);
        assert!(rate > 56_000_000, "{rate} B/s of 62.5 MB/s");
        assert!(pipeline > 6_250_000, "{pipeline} bytes");
    }

    #[test]
    fn a_slow_near_peer_is_asked_for_little() {
        let (rate, pipeline) = rate_found(1_000_000, Duration::from_millis(1), 65_536);
        assert!((900_000..1_100_000).contains(&rate), "{rate} B/s of 1 MB/s");
        assert!(pipeline <= 64 << 10, "{pipeline} bytes");
    }
}
