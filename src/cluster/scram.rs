//! Whether a verifier that the server keeps is of a known password (RFC 5803, as `scram_build_secret()` in scram-common.c
//! makes it).
//!
//! A login would show the same, and leave a failure in the server's log each time.

use sha2::{Digest, Sha256};

/// Rounds are paid for by who asks; a server's own are 4096, and what has far more is not tried.
const MOST_ROUNDS: u32 = 100_000;
/// The block size of SHA-256.
const BLOCK_SIZE_BYTES: usize = 64;

/// What of a verifier tells whether it is of a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// How often the password was hashed.
    pub rounds: u32,
    /// What it was hashed with.
    pub salt: Vec<u8>,
    /// What came of it.
    pub stored_key: Vec<u8>,
}

impl Verifier {
    /// Says whether it is of this password. One that is not in ASCII is compared as it is, without its normal form.
    pub fn is_of(&self, password: &str) -> bool {
        if !(1..=MOST_ROUNDS).contains(&self.rounds) {
            return false;
        }
        let client_key = keyed_hash(&self.salted(password.as_bytes()), &[b"Client Key"]);
        Sha256::digest(client_key).as_slice() == self.stored_key
    }

    /// PBKDF2 (RFC 8018) of one block.
    fn salted(&self, password: &[u8]) -> [u8; 32] {
        let mut last = keyed_hash(password, &[&self.salt, &1_u32.to_be_bytes()]);
        let mut all = last;
        for _ in 1..self.rounds {
            last = keyed_hash(password, &[&last]);
            all.iter_mut().zip(last).for_each(|(all, last)| *all ^= last);
        }
        all
    }
}

/// HMAC (RFC 2104).
fn keyed_hash(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut block = [0; BLOCK_SIZE_BYTES];
    let shortened: [u8; 32];
    let key = if key.len() > BLOCK_SIZE_BYTES {
        shortened = Sha256::digest(key).into();
        &shortened
    } else {
        key
    };
    block.iter_mut().zip(key).for_each(|(byte, key)| *byte = *key);
    let padded = |pad: u8| Sha256::new().chain_update(block.map(|byte| byte ^ pad));
    let inner = parts.iter().fold(padded(0x36), Digest::chain_update).finalize();
    padded(0x5c).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_known_to_be_of_its_password_and_of_no_other() {
        // RFC 7677, section 3: user "user", password "pencil".
        let verifier = Verifier {
            rounds: 4096,
            salt: vec![
                0x5b, 0x6d, 0x99, 0x68, 0x9d, 0x12, 0x35, 0x8e, 0xec, 0xa0, 0x4b, 0x14, 0x12, 0x36, 0xfa,
                0x81,
            ],
            stored_key: vec![
                0x58, 0x6e, 0x5d, 0xf2, 0x83, 0xe6, 0xdc, 0xeb, 0x5c, 0x3e, 0x79, 0x1d, 0x8b, 0x85, 0x28,
                0xec, 0x19, 0x1e, 0x66, 0x40, 0x45, 0xce, 0x97, 0x17, 0x92, 0xe2, 0xe6, 0xb5, 0xbb, 0x13,
                0xe2, 0xa6,
            ],
        };
        assert!(verifier.is_of("pencil"));
        assert!(!verifier.is_of("pencils"));
        assert!(!Verifier { rounds: 0, ..verifier.clone() }.is_of("pencil"));
    }

    #[test]
    fn keyed_hashes_are_those_of_the_standard() {
        // RFC 4231, cases 2 and 6.
        let hex = |bytes: [u8; 32]| bytes.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(
            hex(keyed_hash(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hex(keyed_hash(&[0xaa; 131], &[b"Test Using Larger Than Block-Size Key - Hash Key First"])),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }
}
