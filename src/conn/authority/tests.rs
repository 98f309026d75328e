use proptest::prelude::*;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags, 0, 0, 0, 1];
    bytes.extend_from_slice(payload);
    bytes
}

/// `:method: POST` by index, then the authority as gRPC C-core spells it, name and all.
fn block_of(value: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x40, 0x0a];
    block.extend_from_slice(b":authority");
    block.push(u8::try_from(value.len()).unwrap());
    block.extend_from_slice(value.as_bytes());
    block.extend_from_slice(&[0x40, 0x01, b'x', 0x01, b'%']);
    block
}

/// Everything that comes out when `bytes` are read in pieces of these sizes.
fn pass(bytes: &[u8], sizes: impl IntoIterator<Item = usize>) -> Vec<u8> {
    let mut rewriter = AuthorityRewriter::default();
    let mut out = Vec::new();
    let mut rest = bytes;
    for size in sizes {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        let mut chunk = piece.to_vec();
        let mut ready = Vec::new();
        let passed = rewriter.take(&mut chunk, &mut ready);
        out.extend(ready);
        out.extend_from_slice(&chunk[..passed]);
    }
    out.extend(rewriter.finish());
    assert!(rest.is_empty());
    out
}

fn stream(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, &[0, 3, 0, 0, 0, 100]));
    bytes.extend(frames.concat());
    bytes.extend(frame(0, 1, b"%2Fdata%2Fis not a header"));
    bytes
}

#[test]
fn the_authority_of_c_core_is_rewritten_and_nothing_else() {
    let sent = stream(&[frame(1, 4, &block_of("%2Frun%2Fagent%2Fapi.sock"))]);
    let wanted = stream(&[frame(1, 4, &block_of("-2Frun-2Fagent-2Fapi.sock"))]);
    assert_eq!(pass(&sent, [sent.len()]), wanted);
    assert_eq!(pass(&sent, vec![1; sent.len()]), wanted);
}

#[test]
fn a_raw_path_under_the_static_name_is_rewritten_in_every_representation() {
    for first in [0x41, 0x01, 0x11] {
        let block = |value: &[u8]| [&[first, u8::try_from(value.len()).unwrap()], value].concat();
        let sent = stream(&[frame(1, 4, &block(b"/tmp/a.sock"))]);
        let wanted = stream(&[frame(1, 4, &block(b"-tmp-a.sock"))]);
        assert_eq!(pass(&sent, [sent.len()]), wanted);
    }
}

#[test]
fn a_good_authority_stays_as_it_is() {
    for value in ["localhost", "example.org:443", "user@host", "[::1]:80"] {
        let sent = stream(&[frame(1, 4, &block_of(value))]);
        assert_eq!(pass(&sent, [sent.len()]), sent, "{value}");
    }
}

#[test]
fn padding_priority_and_continuations_do_not_hide_the_authority() {
    let make = |value: &str| {
        let block = block_of(value);
        let mut first = vec![3, 0, 0, 0, 0, 16];
        first.extend_from_slice(&block[..7]);
        first.extend_from_slice(&[0; 3]);
        stream(&[
            frame(1, FLAG_PADDED | FLAG_PRIORITY, &first),
            frame(9, 0, &block[7..20]),
            frame(9, 0, b""),
            frame(9, 4, &block[20..]),
        ])
    };
    let (sent, wanted) = (make("%2Frun%2Fapi.sock"), make("-2Frun-2Fapi.sock"));
    assert_eq!(pass(&sent, [sent.len()]), wanted);
    assert_eq!(pass(&sent, vec![1; sent.len()]), wanted);
    assert_eq!(pass(&sent, vec![13; sent.len().div_ceil(13)]), wanted);
}

#[test]
fn a_header_block_without_end_is_let_go_and_not_held_for_ever() {
    let mut frames = vec![frame(1, 0, &vec![0; 16_384])];
    frames.extend(vec![frame(9, 0, &vec![0; 16_384]); 8]);
    let sent = stream(&frames);
    let mut rewriter = AuthorityRewriter::default();
    let mut ready = Vec::new();
    for chunk in sent.chunks(1000) {
        rewriter.take(&mut chunk.to_vec(), &mut ready);
        assert!(rewriter.held.len() <= MAX_HELD_BYTES + 1000);
    }
    assert_eq!(pass(&sent, [sent.len()]), sent);
}

proptest! {
    #[test]
    fn however_the_bytes_arrive_what_comes_out_is_the_same(
        value in "[a-z/%]{0,40}",
        cut in 0usize..30,
        sizes in prop::collection::vec(1usize..40, 1..200),
    ) {
        let block = block_of(&value);
        let cut = cut.min(block.len());
        let sent = stream(&[
            frame(1, 0, &block[..cut]),
            frame(9, 4, &block[cut..]),
            frame(6, 0, &[0; 8]),
            frame(1, 4, &block),
        ]);
        let mut pieces = sizes;
        pieces.push(sent.len());
        prop_assert_eq!(pass(&sent, pieces), pass(&sent, [sent.len()]));
    }

    #[test]
    fn no_bytes_at_all_make_it_panic_or_change_their_number(
        bytes: Vec<u8>,
        sizes in prop::collection::vec(1usize..20, 0..50),
    ) {
        let mut sent = PREFACE.to_vec();
        sent.extend_from_slice(&bytes);
        let mut pieces = sizes;
        pieces.push(sent.len());
        prop_assert_eq!(pass(&sent, pieces).len(), sent.len());
    }
}
