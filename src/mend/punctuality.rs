//! Which slots are late, and for how long that is held against them.

/// Stripes at most that a slot is left out for before it is tried again.
const ABSENT_STRIPES_MAX: u64 = 64;

/// Whether the shards of one place come in time. One that is late is left out for a stripe, then
/// for two, four and so on: an accident costs little, and a slot that is lost for good costs a
/// wait only now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Punctuality {
    /// It is asked last for stripes before this one.
    absent_until: u64,
    /// Stripes that it is left out for.
    stripes: u64,
}

impl Punctuality {
    /// Whether it is asked last for this stripe.
    pub(super) const fn is_absent(self, stripe: u64) -> bool {
        stripe < self.absent_until
    }

    /// Its shard of this stripe did not come in time.
    pub(super) fn note_late(&mut self, stripe: u64) {
        if !self.is_absent(stripe) {
            self.stripes = (self.stripes * 2).clamp(1, ABSENT_STRIPES_MAX);
            self.absent_until = stripe + 1 + self.stripes;
        }
    }
}
