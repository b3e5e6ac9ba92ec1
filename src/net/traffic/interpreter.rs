//! Runs classic BPF (kernel `Documentation/networking/filter.rst`) over frames, for the tests of programs. It is stricter
//! than the kernel: a load beyond the frame's end, which the kernel takes for 0, is a mistake of the program.

use super::program::{
    ADD, DROP, FROM_INDEX, INDEX_HEADER, Instruction, JUMP, JUMP_BITS, JUMP_EQUAL, JUMP_LEAST,
    JUMP_LEAST_INDEX, LOAD_BYTE, LOAD_BYTE_INDEXED, LOAD_HALF, LOAD_HALF_INDEXED, LOAD_LENGTH, LOAD_WORD,
    PASS, RETURN, TO_INDEX, VLAN_TAG_PRESENT,
};

/// Whether `program` lets `frame` through, whose VLAN tag the kernel has put aside if it was `tagged`.
pub(super) fn passes(program: &[Instruction], frame: &[u8], tagged: bool) -> bool {
    let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
    loop {
        let Instruction { code, jump_true, jump_false, operand } = program[at];
        at += 1;
        let load = |offset: u32, size: usize| -> u32 {
            if offset == VLAN_TAG_PRESENT {
                return u32::from(tagged);
            }
            let offset = usize::try_from(offset).unwrap();
            let bytes =
                frame.get(offset..offset + size).unwrap_or_else(|| panic!("{offset} in {frame:02x?}"));
            bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte))
        };
        let length = u32::try_from(frame.len()).unwrap();
        let jump = |condition: bool| usize::from(if condition { jump_true } else { jump_false });
        match code {
            LOAD_WORD => a = load(operand, 4),
            LOAD_HALF => a = load(operand, 2),
            LOAD_BYTE => a = load(operand, 1),
            LOAD_HALF_INDEXED => a = load(x + operand, 2),
            LOAD_BYTE_INDEXED => a = load(x + operand, 1),
            LOAD_LENGTH => a = length,
            INDEX_HEADER => x = (load(operand, 1) & 0xf) * 4,
            ADD => a = a.wrapping_add(operand),
            TO_INDEX => x = a,
            FROM_INDEX => a = x,
            JUMP => at += usize::try_from(operand).unwrap(),
            JUMP_EQUAL => at += jump(a == operand),
            JUMP_LEAST => at += jump(a >= operand),
            JUMP_LEAST_INDEX => at += jump(a >= x),
            JUMP_BITS => at += jump(a & operand != 0),
            RETURN if operand == PASS => return true,
            RETURN if operand == DROP => return false,
            code => panic!("instruction {code:#x} {operand:#x}"),
        }
    }
}
