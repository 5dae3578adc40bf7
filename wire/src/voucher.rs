//! What one peer owes another, signed.

use crate::{Identity, PeerId};
use std::fmt;

/// Begins what a payer signs, so that no other signature of an identity is a voucher.
const DOMAIN: &[u8] = b"barrow voucher\0";
/// Bytes that are signed behind the domain: all but the signature.
const SIGNED_BYTES: usize = 32 + 32 + 8 + 8;

/// A signed acknowledgement of debt: the payer owes the payee `total` in all since they met.
///
/// A voucher from the wire proves nothing before [`Voucher::verify`], and even then only that it
/// was once signed: whoever keeps the last one asks [`Voucher::supersedes`].
///
/// ```
/// use barrow_wire::{Identity, Voucher, VoucherError};
/// let [payer, payee] = [1, 2].map(|n| Identity::from_seed([n; 32]));
/// let first = Voucher::sign(&payer, payee.peer_id(), 1, 500);
/// let mut second = Voucher::sign(&payer, payee.peer_id(), 2, 800);
/// assert_eq!(second.verify(&payer.peer_id(), &payee.peer_id()), Ok(()));
/// assert!(second.supersedes(&first) && !first.supersedes(&second));
/// second.total = 900;
/// let forged = second.verify(&payer.peer_id(), &payee.peer_id());
/// assert_eq!(forged, Err(VoucherError::Forged));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Voucher {
    /// Who owes.
    pub payer: PeerId,
    /// Whom.
    pub payee: PeerId,
    /// Grows with each voucher of a pair.
    pub sequence: u64,
    /// The whole amount since the first voucher, never less than before.
    pub total: u64,
    /// The payer's Ed25519 signature over the rest, behind a domain of its own.
    pub signature: [u8; 64],
}

/// Why a voucher is worth nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoucherError {
    /// It is between other peers.
    Foreign,
    /// The payer did not sign it.
    Forged,
}

impl fmt::Display for VoucherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Foreign => "the voucher is between other peers",
            Self::Forged => "the payer did not sign the voucher",
        })
    }
}

impl std::error::Error for VoucherError {}

impl Voucher {
    /// Bytes of its form on the wire: two keys, two numbers, a signature.
    pub const BYTES: usize = SIGNED_BYTES + 64;

    /// Owes `payee` this `total` in all. `sequence` must be greater than that of every voucher
    /// signed for `payee` before, and `total` no less.
    pub fn sign(payer: &Identity, payee: PeerId, sequence: u64, total: u64) -> Self {
        let mut voucher =
            Self { payer: payer.peer_id(), payee, sequence, total, signature: [0; 64] };
        voucher.signature = payer.sign(&voucher.signed_message());
        voucher
    }

    /// Whether `payer` signed it for `payee`.
    ///
    /// # Errors
    /// [`VoucherError::Foreign`] if it names other peers, [`VoucherError::Forged`] if the
    /// signature is not the payer's.
    pub fn verify(&self, payer: &PeerId, payee: &PeerId) -> Result<(), VoucherError> {
        if self.payer != *payer || self.payee != *payee {
            return Err(VoucherError::Foreign);
        }
        if !payer.verifies(&self.signed_message(), &self.signature) {
            return Err(VoucherError::Forged);
        }
        Ok(())
    }

    /// Whether it may take the place of `last`: of the same pair, signed later, for no less.
    pub fn supersedes(&self, last: &Self) -> bool {
        (self.payer, self.payee) == (last.payer, last.payee)
            && self.sequence > last.sequence
            && self.total >= last.total
    }

    /// The form of [`Self::BYTES`] bytes.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (signed, signature) = bytes.split_at_mut(SIGNED_BYTES);
        signed.copy_from_slice(&self.signed_bytes());
        signature.copy_from_slice(&self.signature);
        bytes
    }

    /// Reads the form of [`Self::BYTES`] bytes, and verifies nothing.
    ///
    /// # Panics
    /// Never: any bytes are a voucher, which [`Self::verify`] judges.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Self {
        let mut rest = &bytes[..];
        Self {
            payer: PeerId::from_public_key(take(&mut rest)),
            payee: PeerId::from_public_key(take(&mut rest)),
            sequence: u64::from_be_bytes(take(&mut rest)),
            total: u64::from_be_bytes(take(&mut rest)),
            signature: take(&mut rest),
        }
    }

    fn signed_bytes(&self) -> [u8; SIGNED_BYTES] {
        let mut bytes = [0; SIGNED_BYTES];
        let (keys, numbers) = bytes.split_at_mut(64);
        let (payer, payee) = keys.split_at_mut(32);
        let (sequence, total) = numbers.split_at_mut(8);
        payer.copy_from_slice(self.payer.public_key());
        payee.copy_from_slice(self.payee.public_key());
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        total.copy_from_slice(&self.total.to_be_bytes());
        bytes
    }

    fn signed_message(&self) -> Vec<u8> {
        [DOMAIN, &self.signed_bytes()].concat()
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, tail) = rest.split_first_chunk().expect("the parts add up to the whole");
    *rest = tail;
    *taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identities() -> [Identity; 3] {
        [1, 2, 3].map(|n| Identity::from_seed([n; 32]))
    }

    #[test]
    fn a_signed_voucher_reads_back_and_verifies() {
        let [payer, payee, _] = identities();
        let voucher = Voucher::sign(&payer, payee.peer_id(), 7, u64::MAX);
        let read = Voucher::from_bytes(&voucher.to_bytes());
        assert_eq!(read, voucher);
        assert_eq!(read.verify(&payer.peer_id(), &payee.peer_id()), Ok(()));
    }

    #[test]
    fn no_bit_of_a_voucher_can_be_changed() {
        let [payer, payee, _] = identities();
        let (payer_id, payee_id) = (payer.peer_id(), payee.peer_id());
        let bytes = Voucher::sign(&payer, payee_id, 3, 900).to_bytes();
        let mut refused = [0, 0];
        for bit in 0..Voucher::BYTES * 8 {
            let mut forged = bytes;
            forged[bit / 8] ^= 1 << (bit % 8);
            let error = Voucher::from_bytes(&forged).verify(&payer_id, &payee_id).unwrap_err();
            refused[usize::from(error == VoucherError::Forged)] += 1;
        }
        assert_eq!(refused, [64 * 8, (8 + 8 + 64) * 8]);
    }

    #[test]
    fn a_voucher_between_others_is_foreign() {
        let [payer, payee, other] = identities();
        let voucher = Voucher::sign(&payer, payee.peer_id(), 1, 10);
        let foreign = Err(VoucherError::Foreign);
        assert_eq!(voucher.verify(&payer.peer_id(), &other.peer_id()), foreign);
        assert_eq!(voucher.verify(&other.peer_id(), &payee.peer_id()), foreign);
        assert_eq!(voucher.verify(&payee.peer_id(), &payer.peer_id()), foreign);
    }

    #[test]
    fn somebody_elses_signature_is_forged() {
        let [payer, payee, other] = identities();
        let mut voucher = Voucher::sign(&other, payee.peer_id(), 1, 10);
        voucher.payer = payer.peer_id();
        let forged = Err(VoucherError::Forged);
        assert_eq!(voucher.verify(&payer.peer_id(), &payee.peer_id()), forged);
    }

    #[test]
    fn a_signature_without_the_domain_is_forged() {
        let [payer, payee, _] = identities();
        let mut voucher = Voucher::sign(&payer, payee.peer_id(), 1, 10);
        voucher.signature = payer.sign(&voucher.signed_bytes());
        let forged = Err(VoucherError::Forged);
        assert_eq!(voucher.verify(&payer.peer_id(), &payee.peer_id()), forged);
    }

    #[test]
    fn a_voucher_that_is_rolled_back_does_not_supersede() {
        let [payer, payee, other] = identities();
        let sign = |sequence, total| Voucher::sign(&payer, payee.peer_id(), sequence, total);
        let last = sign(5, 100);
        assert!(sign(6, 100).supersedes(&last));
        assert!(sign(9, 200).supersedes(&last), "one may be lost on the way");
        assert!(!last.supersedes(&last), "a replay");
        assert!(!sign(4, 200).supersedes(&last), "an older one");
        assert!(!sign(6, 99).supersedes(&last), "a debt that shrinks");
        assert!(!Voucher::sign(&payer, other.peer_id(), 6, 200).supersedes(&last));
    }
}
