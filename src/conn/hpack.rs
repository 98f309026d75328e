//! As much of HPACK (RFC 7541) as it takes to find the `:authority` of a header block and to
//! change its characters without changing its size. Nothing is kept between blocks: since no
//! size changes, the dynamic tables of both ends stay the ones that the sender meant.

use std::ops::Range;

/// The name of the header, spelled out.
const NAME: &[u8] = b":authority";
/// Its place in the static table (RFC 7541, appendix A).
const STATIC_INDEX: usize = 1;

/// A string literal within a block (RFC 7541, section 5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    huffman: bool,
    range: Range<usize>,
}

/// The values of `:authority` that stand in a header block as literals. A block that is not
/// well formed ends the search: judging it is the business of the HTTP/2 library.
pub fn authority_literals(block: &[u8]) -> Vec<Literal> {
    let mut reader = Reader { block, at: 0 };
    let mut found = Vec::new();
    while let Some(field) = reader.field() {
        if let Field::Literal {
            is_authority: true,
            value,
        } = field
        {
            found.push(value);
        }
    }
    found
}

/// Rewrites the value if `keep` refuses it: every character but letters, digits and `-._~`
/// becomes one of the same encoded length. A character without such a substitute leaves the
/// value as it was.
pub fn sanitize(block: &mut [u8], literal: &Literal, keep: impl Fn(&[u8]) -> bool) {
    let Some(bytes) = block.get_mut(literal.range.clone()) else {
        return;
    };
    let text = if literal.huffman {
        decode(bytes)
    } else {
        Some(bytes.to_vec())
    };
    let Some(mut text) = text.filter(|text| !keep(text)) else {
        return;
    };
    for byte in &mut text {
        if !byte.is_ascii_alphanumeric() && !b"-._~".contains(byte) {
            match substitute(*byte, literal.huffman) {
                Some(other) => *byte = other,
                None => return,
            }
        }
    }
    let encoded = if literal.huffman { encode(&text) } else { text };
    if encoded.len() == bytes.len() {
        bytes.copy_from_slice(&encoded);
    }
}

/// A harmless character that is as long as `byte` when encoded.
fn substitute(byte: u8, huffman: bool) -> Option<u8> {
    if !huffman {
        return Some(b'-');
    }
    match length(byte) {
        6 => Some(b'-'),
        7 => Some(b'k'),
        8 => Some(b'X'),
        10 => Some(b'!'),
        11 => Some(b'+'),
        13 => Some(b'~'),
        _ => None,
    }
}

enum Field {
    Literal { is_authority: bool, value: Literal },
    Other,
}

struct Reader<'a> {
    block: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    /// The next field representation (RFC 7541, section 6).
    fn field(&mut self) -> Option<Field> {
        let first = *self.block.get(self.at)?;
        let name_bits = match first {
            // Indexed, and a change of the table size: no literal.
            0x80.. => return self.integer(7).map(|_| Field::Other),
            0x20..=0x3f => return self.integer(5).map(|_| Field::Other),
            // With indexing; without indexing and never indexed.
            0x40..=0x7f => 6,
            0x00..=0x1f => 4,
        };
        let index = self.integer(name_bits)?;
        let is_authority = match index {
            0 => {
                let name = self.string()?;
                let bytes = self.block.get(name.range.clone())?;
                if name.huffman {
                    decode(bytes)?.as_slice() == NAME
                } else {
                    bytes == NAME
                }
            }
            STATIC_INDEX => true,
            // Another static name, or one that an earlier block put into the dynamic table, which
            // is not kept here.
            _ => false,
        };
        let value = self.string()?;
        Some(Field::Literal {
            is_authority,
            value,
        })
    }

    /// An integer with a prefix of `bits` (RFC 7541, section 5.1), up to 2^28.
    fn integer(&mut self, bits: u32) -> Option<usize> {
        let mask = (1usize << bits) - 1;
        let mut value = usize::from(*self.block.get(self.at)?) & mask;
        self.at += 1;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = usize::from(*self.block.get(self.at)?);
            self.at += 1;
            value += (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn string(&mut self) -> Option<Literal> {
        let huffman = *self.block.get(self.at)? & 0x80 != 0;
        let length = self.integer(7)?;
        let range = self.at..self.at.checked_add(length)?;
        self.block.get(range.clone())?;
        self.at = range.end;
        Some(Literal { huffman, range })
    }
}

/// Code lengths in bits, by character (RFC 7541, appendix B). The code is canonical, so the
/// lengths determine it: codes count upwards, shorter ones first, equal ones by character.
#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const LONGEST: usize = 30;

fn length(byte: u8) -> u8 {
    LENGTHS.get(usize::from(byte)).copied().unwrap_or(0)
}

/// The code laid out for reading: for each length its first code, and the characters in the
/// order of their codes.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    offset: [u32; LONGEST + 1],
    characters: [u8; 256],
}

static CODE: Code = Code::build();

impl Code {
    #[expect(
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        reason = "runs at compile time, where a wrong index does not compile"
    )]
    const fn build() -> Self {
        let mut code = Self {
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            offset: [0; LONGEST + 1],
            characters: [0; 256],
        };
        let (mut next, mut placed, mut bits) = (0u32, 0usize, 1usize);
        while bits <= LONGEST {
            next <<= 1;
            code.first[bits] = next;
            code.offset[bits] = placed as u32;
            let mut character = 0usize;
            while character < 256 {
                if LENGTHS[character] as usize == bits {
                    code.characters[placed] = character as u8;
                    placed += 1;
                    next += 1;
                }
                character += 1;
            }
            code.count[bits] = next - code.first[bits];
            bits += 1;
        }
        code
    }

    /// The character with this code of this length.
    fn character(&self, bits: usize, code: u32) -> Option<u8> {
        let index = code.checked_sub(*self.first.get(bits)?)?;
        if index >= *self.count.get(bits)? {
            return None;
        }
        let place = self.offset.get(bits)? + index;
        self.characters.get(place as usize).copied()
    }

    /// The code of a character.
    fn code(&self, character: u8) -> Option<u32> {
        let bits = usize::from(length(character));
        let start = *self.offset.get(bits)? as usize;
        let index = self
            .characters
            .get(start..)?
            .iter()
            .position(|c| *c == character)?;
        u32::try_from(index)
            .ok()
            .map(|index| self.first.get(bits).map_or(0, |f| f + index))
    }
}

/// Decodes a Huffman-coded string; `None` where it is malformed.
fn decode(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    let (mut code, mut bits) = (0u32, 0usize);
    for byte in bytes {
        for shift in (0..8).rev() {
            code = code << 1 | u32::from(byte >> shift & 1);
            bits += 1;
            if let Some(character) = CODE.character(bits, code) {
                text.push(character);
                (code, bits) = (0, 0);
            } else if bits >= LONGEST {
                return None;
            }
        }
    }
    // What is left over is padding: fewer than eight bits, all ones.
    (bits < 8 && code == (1 << bits) - 1).then_some(text)
}

fn encode(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let (mut pending, mut bits) = (0u64, 0u32);
    for character in text {
        let width = u32::from(length(*character));
        pending = pending << width | u64::from(CODE.code(*character).unwrap_or(0));
        bits += width;
        while bits >= 8 {
            bits -= 8;
            bytes.push((pending >> bits & 0xff) as u8);
        }
    }
    if bits > 0 {
        // Padding is the start of the end-of-string code: ones.
        let padding = 8 - bits;
        bytes.push(((pending << padding | ((1 << padding) - 1)) & 0xff) as u8);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn never(_: &[u8]) -> bool {
        false
    }

    #[test]
    fn the_code_is_that_of_the_rfc() {
        // RFC 7541, appendix C.4 and C.6.
        for (text, coded) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07abe941054d444a8200595040b8166e082a62d1bff",
            ),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
            ),
        ] {
            let bytes: Vec<u8> = (0..coded.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&coded[i..i + 2], 16).unwrap())
                .collect();
            assert_eq!(encode(text.as_bytes()), bytes, "{text}");
            assert_eq!(decode(&bytes).as_deref(), Some(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn malformed_codes_are_refused() {
        assert_eq!(decode(&[0xff]), None, "eight bits of padding");
        assert_eq!(decode(&[0x00]), None, "padding of zeros");
        assert_eq!(decode(&[0xff; 8]), None, "end of string");
    }

    proptest! {
        #[test]
        fn coding_and_decoding_any_string_gives_it_back(text: Vec<u8>) {
            prop_assert_eq!(decode(&encode(&text)), Some(text));
        }

        #[test]
        fn no_block_makes_the_search_or_the_rewriting_panic_or_leave_its_value(block: Vec<u8>) {
            let mut changed = block.clone();
            for literal in authority_literals(&block) {
                sanitize(&mut changed, &literal, never);
                for (i, (a, b)) in block.iter().zip(&changed).enumerate() {
                    prop_assert!(a == b || literal.range.contains(&i));
                }
                changed.clone_from(&block);
            }
        }

        #[test]
        fn a_path_becomes_an_authority_of_the_same_length(
            path in "(/|%2F)[a-zA-Z0-9/%.:,;|@ _~-]{0,80}",
            huffman: bool,
        ) {
            let value = if huffman { encode(path.as_bytes()) } else { path.into_bytes() };
            let mut block = value.clone();
            let literal = Literal { huffman, range: 0..block.len() };
            sanitize(&mut block, &literal, never);
            let text = if huffman { decode(&block).unwrap() } else { block };
            prop_assert!(http::uri::Authority::try_from(text.as_slice()).is_ok());
        }
    }
}
