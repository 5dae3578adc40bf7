//! What reads of the disk came to lately, for `/healthz` and for the scrub.

use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Findings in [`FINDINGS_WINDOW`] after which the drive, and not single blocks, is at fault: the
/// scrub stops, because each read of such a drive may make it worse and none of its findings counts.
const FINDINGS_MAX: usize = 64;
/// Time over which findings are counted.
const FINDINGS_WINDOW: Duration = Duration::from_secs(60);

/// Findings of late, and whether the drive can be read now.
#[derive(Default)]
pub(super) struct Faults {
    /// Set while the last read failed: the quick question of each read that does not.
    is_unreadable: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    unreadable: Option<String>,
    /// When something was found that is not as it was stored.
    findings: VecDeque<Instant>,
}

impl Faults {
    /// Notes that the drive did not return something.
    pub(super) fn note_unreadable(&self, error: &io::Error) {
        let reason = format!("the drive cannot be read: {error}");
        let mut state = self.state.lock();
        if state.unreadable.is_none() {
            log::error!("{reason}; nothing is changed on it, and reads are tried again");
        }
        state.unreadable = Some(reason);
        self.is_unreadable.store(true, Ordering::Release);
    }

    /// Notes that the drive returned what it should.
    pub(super) fn note_readable(&self) {
        if self.is_unreadable.load(Ordering::Acquire) {
            let mut state = self.state.lock();
            state.unreadable = None;
            self.is_unreadable.store(false, Ordering::Release);
            log::info!("the drive can be read again");
        }
    }

    /// Notes that bytes were damaged, or that the index was wrong about them.
    pub(super) fn note_finding(&self) {
        let findings = &mut self.state.lock().findings;
        findings.push_back(Instant::now());
        if findings.len() > FINDINGS_MAX {
            findings.pop_front();
        }
    }

    /// Whether so much was found in so short a time that the drive is to be left alone.
    pub(super) fn are_too_many(&self) -> bool {
        let findings = &self.state.lock().findings;
        findings.len() == FINDINGS_MAX
            && findings.front().is_some_and(|first| first.elapsed() < FINDINGS_WINDOW)
    }

    /// Why the disk is not healthy, if it is not.
    pub(super) fn reason(&self) -> Option<String> {
        if self.are_too_many() {
            return Some(format!(
                "{FINDINGS_MAX} blocks were found damaged within a minute; the scrub is stopped. \
                 Look at the drive, then run verify"
            ));
        }
        self.state.lock().unreadable.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drive_that_can_be_read_again_is_healthy_again() {
        let faults = Faults::default();
        faults.note_unreadable(&io::Error::other("a loose cable"));
        assert!(faults.reason().is_some_and(|reason| reason.contains("a loose cable")));
        faults.note_readable();
        assert_eq!(faults.reason(), None);
    }

    #[test]
    fn many_findings_at_once_are_the_drives_and_few_are_not() {
        let faults = Faults::default();
        for _ in 1..FINDINGS_MAX {
            faults.note_finding();
        }
        assert_eq!(faults.reason(), None);
        faults.note_finding();
        assert!(faults.are_too_many() && faults.reason().is_some());
    }
}
