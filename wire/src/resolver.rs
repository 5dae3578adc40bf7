//! What the Noise session computes with: ring, and curve25519-dalek for its X25519 keys, which
//! ring would let one use once alone.

use curve25519_dalek::MontgomeryPoint;
use ring::{
    aead::{self, Aad, LessSafeKey, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use snow::{
    Error,
    params::{CipherChoice, DHChoice, HashChoice},
    resolvers::CryptoResolver,
    types::{Cipher, Dh, Hash, Random},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Hands out what the suites of [`crate::Suite`] name, and nothing else.
pub(crate) struct Resolver;

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SystemRng(SystemRandom::new())))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        match choice {
            DHChoice::Curve25519 => Some(Box::new(X25519::default())),
            _ => None,
        }
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        match choice {
            HashChoice::SHA256 => Some(Box::new(Sha256(digest::Context::new(&digest::SHA256)))),
            HashChoice::SHA512 | HashChoice::Blake2s | HashChoice::Blake2b => None,
        }
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        match choice {
            CipherChoice::AESGCM => {
                let nonce = |counter: u64| counter.to_be_bytes();
                Some(Box::new(Aead::new("AESGCM", &aead::AES_256_GCM, nonce)))
            }
            CipherChoice::ChaChaPoly => {
                let nonce = |counter: u64| counter.to_le_bytes();
                Some(Box::new(Aead::new("ChaChaPoly", &aead::CHACHA20_POLY1305, nonce)))
            }
        }
    }
}

struct SystemRng(SystemRandom);

impl Random for SystemRng {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.0.fill(dest).map_err(|_| Error::Rng)
    }
}

/// An X25519 key pair.
#[derive(Default)]
pub(crate) struct X25519 {
    private: Zeroizing<[u8; 32]>,
    public: [u8; 32],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        32
    }

    fn priv_len(&self) -> usize {
        32
    }

    fn set(&mut self, private: &[u8]) {
        self.private.copy_from_slice(private);
        self.public = MontgomeryPoint::mul_base_clamped(*self.private).to_bytes();
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        let mut private = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(&mut *private)?;
        self.set(&*private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        &*self.private
    }

    fn dh(&self, public: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let theirs = public.first_chunk().ok_or(Error::Dh)?;
        let mut shared = MontgomeryPoint(*theirs).mul_clamped(*self.private).to_bytes();
        out.get_mut(..32).ok_or(Error::Dh)?.copy_from_slice(&shared);
        shared.zeroize();
        Ok(())
    }
}

struct Sha256(digest::Context);

impl Hash for Sha256 {
    fn name(&self) -> &'static str {
        "SHA256"
    }

    fn block_len(&self) -> usize {
        64
    }

    fn hash_len(&self) -> usize {
        32
    }

    fn reset(&mut self) {
        self.0 = digest::Context::new(&digest::SHA256);
    }

    fn input(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn result(&mut self, out: &mut [u8]) {
        out[..32].copy_from_slice(self.0.clone().finish().as_ref());
    }
}

/// An AEAD of ring's under Noise's counter.
struct Aead {
    name: &'static str,
    algorithm: &'static aead::Algorithm,
    key: LessSafeKey,
    /// The last 8 bytes of the nonce; Noise's first 4 are zero.
    nonce: fn(u64) -> [u8; 8],
}

impl Aead {
    fn new(
        name: &'static str,
        algorithm: &'static aead::Algorithm,
        nonce: fn(u64) -> [u8; 8],
    ) -> Self {
        // Noise encrypts nothing before it has set a key.
        Self { name, algorithm, key: key(algorithm, &[0; 32]), nonce }
    }

    fn nonce(&self, counter: u64) -> Nonce {
        let mut nonce = [0; aead::NONCE_LEN];
        nonce[4..].copy_from_slice(&(self.nonce)(counter));
        Nonce::assume_unique_for_key(nonce)
    }
}

fn key(algorithm: &'static aead::Algorithm, key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(algorithm, key).expect("both AEADs have keys of 32 bytes"))
}

impl Cipher for Aead {
    fn name(&self) -> &'static str {
        self.name
    }

    fn set(&mut self, bytes: &[u8; 32]) {
        self.key = key(self.algorithm, bytes);
    }

    fn encrypt(&self, counter: u64, data: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (sealed, behind) = out.split_at_mut(plaintext.len());
        sealed.copy_from_slice(plaintext);
        let tag = self
            .key
            .seal_in_place_separate_tag(self.nonce(counter), Aad::from(data), sealed)
            .expect("a record is far below the AEADs' limits");
        behind[..tag.as_ref().len()].copy_from_slice(tag.as_ref());
        plaintext.len() + tag.as_ref().len()
    }

    fn decrypt(
        &self,
        counter: u64,
        data: &[u8],
        ciphertext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, Error> {
        let open = |sealed: &mut [u8]| {
            let opened = self.key.open_in_place(self.nonce(counter), Aad::from(data), sealed);
            opened.map(|plaintext| plaintext.len()).map_err(|_| Error::Decrypt)
        };
        // ring needs room for the tag too.
        if let Some(room) = out.get_mut(..ciphertext.len()) {
            room.copy_from_slice(ciphertext);
            return open(room);
        }
        let mut sealed = Zeroizing::new(ciphertext.to_vec());
        let len = open(&mut sealed)?;
        out.get_mut(..len).ok_or(Error::Decrypt)?.copy_from_slice(&sealed[..len]);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snow::{Builder, resolvers::DefaultResolver};

    const SUITES: [&str; 4] = [
        "Noise_XX_25519_ChaChaPoly_SHA256",
        "Noise_XX_25519_AESGCM_SHA256",
        "Noise_XXpsk0_25519_ChaChaPoly_SHA256",
        "Noise_XXpsk0_25519_AESGCM_SHA256",
    ];

    /// Our side of a handshake beside one that computes with snow's own, both ways.
    #[test]
    fn every_suite_speaks_with_the_pure_cryptography_of_snow() {
        for (name, ours_first) in SUITES.iter().flat_map(|name| [(name, true), (name, false)]) {
            let build = |ours: bool, first: bool| {
                let resolver: Box<dyn CryptoResolver + Send> =
                    if ours { Box::new(Resolver) } else { Box::new(DefaultResolver) };
                let mut builder = Builder::with_resolver(name.parse().unwrap(), resolver)
                    .local_private_key(if ours { &[3; 32] } else { &[4; 32] })
                    .unwrap();
                if name.contains("psk") {
                    builder = builder.psk(0, &[5; 32]).unwrap();
                }
                if first { builder.build_initiator() } else { builder.build_responder() }.unwrap()
            };
            let (mut a, mut b) = (build(ours_first, true), build(!ours_first, false));
            let (mut wire, mut plain) = ([0; 256], [0; 256]);
            for turn in 0..3_u8 {
                let (from, to) = if turn == 1 { (&mut b, &mut a) } else { (&mut a, &mut b) };
                let sent = from.write_message(&[turn; 9], &mut wire).unwrap();
                let read = to.read_message(&wire[..sent], &mut plain).unwrap();
                assert_eq!(plain[..read], [turn; 9], "{name}");
            }
            let (mut a, mut b) =
                (a.into_transport_mode().unwrap(), b.into_transport_mode().unwrap());
            for n in 0..300_u16 {
                let message = n.to_be_bytes().repeat(20);
                let (from, to) = if n % 3 == 0 { (&mut b, &mut a) } else { (&mut a, &mut b) };
                let sent = from.write_message(&message, &mut wire).unwrap();
                // Without room for the tag, too.
                let room = if n % 2 == 0 { message.len() } else { plain.len() };
                let read = to.read_message(&wire[..sent], &mut plain[..room]).unwrap();
                assert_eq!(plain[..read], message, "{name}");
                wire[usize::from(n) % sent] ^= 1;
                assert!(to.read_message(&wire[..sent], &mut plain).is_err());
            }
        }
    }
}
