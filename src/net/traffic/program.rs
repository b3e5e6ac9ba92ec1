//! Classic BPF programs (kernel `Documentation/networking/filter.rst`) as the classifier `bpf` runs them (`man 8 tc-bpf`):
//! the instructions, and the few patterns that the programs here are made of.
//!
//! A load beyond the frame's end ends a program with 0, which here means "let it through". So every load is preceded by a
//! check of the length.

use std::net::Ipv6Addr;

/// One instruction, `struct sock_filter` of `linux/filter.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Instruction {
    pub(super) code: u16,
    pub(super) jump_true: u8,
    pub(super) jump_false: u8,
    pub(super) operand: u32,
}

/// `TC_ACT_UNSPEC`: the next filter is asked, and if there is none, the frame passes.
pub(super) const PASS: u32 = u32::MAX;
/// `TC_ACT_SHOT`: the frame is dropped.
pub(super) const DROP: u32 = 2;

// `linux/bpf_common.h`.
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const LOAD_HALF: u16 = 0x28;
pub(super) const LOAD_BYTE: u16 = 0x30;
pub(super) const LOAD_LENGTH: u16 = 0x80;
pub(super) const LOAD_HALF_INDEXED: u16 = 0x48;
pub(super) const LOAD_BYTE_INDEXED: u16 = 0x50;
/// Four times the low half of a byte, into the index: the length of an IPv4 header.
pub(super) const INDEX_HEADER: u16 = 0xb1;
pub(super) const ADD: u16 = 0x04;
pub(super) const TO_INDEX: u16 = 0x07;
pub(super) const FROM_INDEX: u16 = 0x87;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_LEAST: u16 = 0x35;
pub(super) const JUMP_LEAST_INDEX: u16 = 0x3d;
pub(super) const JUMP_BITS: u16 = 0x45;
pub(super) const RETURN: u16 = 0x06;

/// `SKF_AD_OFF` and `SKF_AD_VLAN_TAG_PRESENT`: the kernel puts a frame's tag aside.
pub(super) const VLAN_TAG_PRESENT: u32 = 0xffff_f000 + 48;

/// A program that is being written.
#[derive(Debug, Default)]
pub(super) struct Program(pub(super) Vec<Instruction>);

impl Program {
    pub(super) fn push(&mut self, code: u16, operand: u32) -> &mut Self {
        self.branch(code, operand, 0, 0)
    }

    fn branch(&mut self, code: u16, operand: u32, jump_true: u8, jump_false: u8) -> &mut Self {
        self.0.push(Instruction { code, jump_true, jump_false, operand });
        self
    }

    pub(super) fn pass(&mut self) {
        self.push(RETURN, PASS);
    }

    pub(super) fn drop(&mut self) {
        self.push(RETURN, DROP);
    }

    /// Drops a frame of fewer bytes.
    pub(super) fn require_length(&mut self, bytes: u32) -> &mut Self {
        self.push(LOAD_LENGTH, 0).branch(JUMP_LEAST, bytes, 1, 0).drop();
        self
    }

    /// Drops a frame of which something else was loaded.
    pub(super) fn require(&mut self, value: u32) -> &mut Self {
        self.branch(JUMP_EQUAL, value, 1, 0).drop();
        self
    }

    /// Drops a frame of which this was loaded.
    pub(super) fn refuse(&mut self, value: u32) -> &mut Self {
        self.branch(JUMP_EQUAL, value, 0, 1).drop();
        self
    }

    /// Lets a frame through of which this was loaded.
    pub(super) fn accept(&mut self, value: u32) -> &mut Self {
        self.branch(JUMP_EQUAL, value, 0, 1).pass();
        self
    }

    /// Lets a frame through if one of these bits is in what was loaded.
    pub(super) fn accept_bits(&mut self, bits: u32) -> &mut Self {
        self.branch(JUMP_BITS, bits, 0, 1).pass();
        self
    }

    /// Makes the index that of an IPv4 header's end, and drops a frame without `bytes` after that.
    pub(super) fn require_after_header(&mut self, start: u32, bytes: u32) -> &mut Self {
        self.push(INDEX_HEADER, start).push(FROM_INDEX, 0).push(ADD, start + bytes).push(TO_INDEX, 0);
        self.push(LOAD_LENGTH, 0).branch(JUMP_LEAST_INDEX, 0, 1, 0).drop();
        self.push(INDEX_HEADER, start)
    }

    /// `body` for frames of which one of `values` was loaded. It ends with a verdict.
    pub(super) fn when(&mut self, values: &[u32], body: impl FnOnce(&mut Self)) -> &mut Self {
        let mut to_body = Vec::new();
        for value in values {
            self.branch(JUMP_EQUAL, *value, 0, 1);
            to_body.push(self.0.len());
            self.push(JUMP, 0);
        }
        self.with_body(&to_body, body)
    }

    /// `body` for frames that have one of `addresses` at `offset`. It ends with a verdict.
    pub(super) fn when_address(
        &mut self,
        offset: u32,
        addresses: &[Ipv6Addr],
        body: impl FnOnce(&mut Self),
    ) -> &mut Self {
        let mut to_body = Vec::new();
        for address in addresses {
            let bits = address.to_bits().to_be_bytes();
            // Each comparison but one's own jump over what is left of the nine instructions.
            for (part, over) in bits.chunks_exact(4).zip([7, 5, 3, 1]) {
                let word = part.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
                let at = offset + (7 - u32::from(over)) * 2;
                self.push(LOAD_WORD, at).branch(JUMP_EQUAL, word, 0, over);
            }
            to_body.push(self.0.len());
            self.push(JUMP, 0);
        }
        self.with_body(&to_body, body)
    }

    /// The jumps at `to_body` lead to `body`; the instruction before it leads past it.
    fn with_body(&mut self, to_body: &[usize], body: impl FnOnce(&mut Self)) -> &mut Self {
        let past = self.0.len();
        self.push(JUMP, 0);
        body(self);
        let end = self.0.len();
        for (from, to) in to_body.iter().map(|from| (*from, past + 1)).chain([(past, end)]) {
            self.0[from].operand = u32::try_from(to - from - 1).unwrap_or(u32::MAX);
        }
        self
    }
}
