//! Multibase: bytes as text, in a base that the first character names.

use data_encoding::{Encoding, Specification};
use std::sync::LazyLock;

const BASE32: &str = "abcdefghijklmnopqrstuvwxyz234567";
const BASE32_HEX: &str = "0123456789abcdefghijklmnopqrstuv";
const BASE36: &str = "0123456789abcdefghijklmnopqrstuvwxyz";
const BASE58_BTC: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
const BASE58_FLICKR: &str = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ";

/// What a CIDv1 is written in; made once, as each CID that is shown needs it.
static BASE32_LOWER: LazyLock<Encoding> = LazyLock::new(|| bits(BASE32, None));

/// The text in lower base32, which begins with `b`.
pub(crate) fn encode_base32(bytes: &[u8]) -> String {
    let mut text = String::from("b");
    BASE32_LOWER.encode_append(bytes, &mut text);
    text
}

/// The text in Bitcoin's base58, without a character before it.
pub(crate) fn encode_base58(bytes: &[u8]) -> String {
    base_x::encode(BASE58_BTC, bytes)
}

/// Reads what [`encode_base58`] writes. Takes time by the square of the length.
pub(crate) fn decode_base58(text: &str) -> Option<Vec<u8>> {
    base_x::decode(BASE58_BTC, text).ok()
}

/// Reads a text in whatever base its first character names.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let base = text.chars().next()?;
    let digits = text.get(base.len_utf8()..)?;
    let encoding = match base {
        'b' => return BASE32_LOWER.decode(digits.as_bytes()).ok(),
        'z' => return decode_base58(digits),
        'Z' => return base_x::decode(BASE58_FLICKR, digits).ok(),
        '9' => return base_x::decode("0123456789", digits).ok(),
        'k' | 'K' => return base_x::decode(BASE36, &digits.to_ascii_lowercase()).ok(),
        'm' => data_encoding::BASE64_NOPAD,
        'M' => data_encoding::BASE64,
        'u' => data_encoding::BASE64URL_NOPAD,
        'U' => data_encoding::BASE64URL,
        'f' | 'F' => data_encoding::HEXLOWER_PERMISSIVE,
        'B' => bits(BASE32, None),
        'c' | 'C' => bits(BASE32, Some('=')),
        'v' | 'V' => bits(BASE32_HEX, None),
        't' | 'T' => bits(BASE32_HEX, Some('=')),
        'h' => exact("ybndrfg8ejkmcpqxot1uwisza345h769"),
        '0' => exact("01"),
        '7' => exact("01234567"),
        _ => return None,
    };
    encoding.decode(digits.as_bytes()).ok()
}

/// A base of so many bits a symbol, whose letters are read in either case.
fn bits(symbols: &str, padding: Option<char>) -> Encoding {
    let mut base = Specification { padding, ..Specification::new() };
    base.symbols.push_str(symbols);
    base.translate.from = symbols.chars().filter(char::is_ascii_lowercase).collect();
    base.translate.from.make_ascii_uppercase();
    base.translate.to = base.translate.from.to_ascii_lowercase();
    base.encoding().expect("the alphabets are sound")
}

/// A base of so many bits a symbol.
fn exact(symbols: &str) -> Encoding {
    let mut base = Specification::new();
    base.symbols.push_str(symbols);
    base.encoding().expect("the alphabets are sound")
}

#[cfg(test)]
mod tests {
    use super::*;
    use multibase::Base;
    use proptest::prelude::*;

    /// All bases of multibase but `identity`, which is no text, and the two that nobody writes
    /// CIDs in: base45 and emoji.
    const BASES: &str = "079fFbBcCvVtThkKZzmMuU";

    proptest! {
        #[test]
        fn every_base_is_read_as_the_multibase_crate_reads_it(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            noise in ".?",
        ) {
            for code in BASES.chars() {
                let text = multibase::encode(Base::from_code(code).unwrap(), &bytes);
                prop_assert_eq!(decode(&text), Some(bytes.clone()), "{}", text);
                for changed in [text.to_uppercase(), text.to_lowercase(), {
                    let at = at.index(text.len());
                    format!("{}{noise}{}", &text[..at], &text[at..])
                }] {
                    let oracle = multibase::decode(&changed).ok().filter(|(base, _)| {
                        BASES.contains(base.code())
                    });
                    prop_assert_eq!(decode(&changed), oracle.map(|(_, bytes)| bytes), "{}", changed);
                }
            }
            prop_assert_eq!(encode_base32(&bytes), multibase::encode(Base::Base32Lower, &bytes));
            prop_assert_eq!(encode_base58(&bytes), Base::Base58Btc.encode(&bytes));
        }
    }

    #[test]
    fn what_names_no_base_is_not_read() {
        for text in ["", "\0abc", "R6BF", "\u{1f680}", "xyz", "!"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }
}
