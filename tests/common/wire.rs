//! HTTP/2 by hand, for what no client library lets one send.

#![allow(dead_code, reason = "helpers, of which each test file uses some")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::common::DEADLINE;

/// How `:authority` is written (RFC 7541, section 6.2): its name by index or spelled out, the field
/// to be indexed or not.
#[derive(Debug, Clone, Copy)]
pub enum Spelling {
    IndexedName,
    SpelledName,
    NotIndexed,
    NeverIndexed,
    /// The value in Huffman's code.
    Huffman,
}

impl Spelling {
    pub const ALL: [Self; 5] = [
        Self::IndexedName,
        Self::SpelledName,
        Self::NotIndexed,
        Self::NeverIndexed,
        Self::Huffman,
    ];
}

/// How the bytes of a call reach the agent.
#[derive(Debug, Clone, Copy)]
pub enum Cut {
    Whole,
    Continuations,
    Bytes,
}

impl Cut {
    pub const ALL: [Self; 3] = [Self::Whole, Self::Continuations, Self::Bytes];
}

pub fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![
        length[1], length[2], length[3], kind, flags, 0, 0, 0, stream,
    ];
    bytes.extend_from_slice(payload);
    bytes
}

fn string(text: &str) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(text.len()).unwrap()];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Huffman's code of RFC 7541 for what paths are made of.
fn huffman(text: &str) -> Vec<u8> {
    let code = |c: char| match c {
        '2' => (0x2, 5),
        'a' => (0x3, 5),
        'c' => (0x4, 5),
        'e' => (0x5, 5),
        'i' => (0x6, 5),
        'o' => (0x7, 5),
        's' => (0x8, 5),
        't' => (0x9, 5),
        '%' => (0x15, 6),
        '-' => (0x16, 6),
        '.' => (0x17, 6),
        '/' => (0x18, 6),
        'F' => (0x61, 7),
        'k' => (0x75, 7),
        'm' => (0x29, 6),
        'p' => (0x2b, 6),
        'x' => (0x79, 7),
        other => panic!("{other} has no code here"),
    };
    let (mut bits, mut count, mut bytes) = (0u64, 0, Vec::new());
    for (value, length) in text.chars().map(code) {
        bits = bits << length | value;
        count += length;
        while count >= 8 {
            count -= 8;
            bytes.push(low_byte(bits >> count));
        }
    }
    if count > 0 {
        bytes.push(low_byte((bits << (8 - count)) | ((1 << (8 - count)) - 1)));
    }
    let mut coded = vec![0x80 | u8::try_from(bytes.len()).unwrap()];
    coded.extend(bytes);
    coded
}

fn low_byte(bits: u64) -> u8 {
    u8::try_from(bits & 0xff).unwrap()
}

/// The header block of a call.
pub fn headers(authority: &str, path: &str) -> Vec<u8> {
    headers_spelled(authority, path, Spelling::IndexedName)
}

pub fn headers_spelled(authority: &str, path: &str, spelling: Spelling) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &str, value: &str| {
        block.push(0x40);
        block.extend(string(name));
        block.extend(string(value));
    };
    literal(":path", path);
    literal("content-type", "application/grpc");
    literal("te", "trailers");
    literal("workload.spiffe.io", "true");
    let value = match spelling {
        Spelling::Huffman => huffman(authority),
        _ => string(authority),
    };
    let start = match spelling {
        Spelling::IndexedName | Spelling::Huffman => vec![0x41],
        Spelling::NotIndexed => vec![0x01],
        Spelling::NeverIndexed => vec![0x11],
        Spelling::SpelledName => [vec![0x40], string(":authority")].concat(),
    };
    // Pseudo-headers come first.
    let field = [start, value].concat();
    block.splice(2..2, field);
    block
}

/// The bytes of a call for audience `a`, in the pieces in which they are sent.
pub fn bytes(block: &[u8], cut: Cut) -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let settings = frame(4, 0, 0, &[]);
    let data = frame(0, 1, 1, &[0, 0, 0, 0, 3, 0x0a, 1, b'a']);
    let headers = match cut {
        Cut::Continuations => {
            let (first, rest) = block.split_at(block.len() / 3);
            let (second, third) = rest.split_at(rest.len() / 2);
            [
                frame(1, 0, 1, first),
                frame(9, 0, 1, second),
                frame(9, 4, 1, third),
            ]
            .concat()
        }
        _ => frame(1, 4, 1, block),
    };
    let all = [preface, settings, headers, data].concat();
    match cut {
        Cut::Bytes => all.iter().map(|byte| vec![*byte]).collect(),
        _ => vec![all],
    }
}

/// The bytes of a call in hexadecimal, for a script to send.
pub fn hex(path: &str) -> String {
    let call = bytes(&headers("localhost", path), Cut::Whole).concat();
    call.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes a call and gives everything that comes back until its end, a character for each byte.
pub fn call(socket: &Path, block: &[u8]) -> String {
    call_cut(socket, block, Cut::Whole)
}

pub fn call_cut(socket: &Path, block: &[u8], cut: Cut) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    for piece in bytes(block, cut) {
        stream.write_all(&piece).unwrap();
    }
    let mut got = Vec::new();
    let mut buffer = [0; 65536];
    while !is_over(&got) {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => got.extend_from_slice(&buffer[..length]),
            Err(error) => panic!("no answer: {error}; got {got:?}"),
        }
    }
    got.into_iter().map(char::from).collect()
}

/// Whether stream 1 has ended: by END_STREAM or a reset, or the connection by GOAWAY.
fn is_over(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let [a, b, c, kind, flags, _, _, _, stream, ..] = *rest {
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let ended = matches!(kind, 0 | 1) && flags & 1 != 0 || kind == 3;
        if stream == 1 && ended || kind == 7 {
            return rest.len() >= 9 + length;
        }
        rest = rest.get(9 + length..).unwrap_or_default();
    }
    false
}
