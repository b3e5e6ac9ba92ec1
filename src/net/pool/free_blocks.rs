//! The free part of a buddy system (Knowlton 1965; the kernel's pages are kept so, too: `Documentation/mm/physical_memory.rst`).

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::block::Block;

/// Free blocks, none of them beside its buddy: two free halves are one block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FreeBlocks {
    /// What blocks are joined up to.
    all: Block,
    /// The smallest first, and of one size the lowest.
    blocks: BTreeSet<(Reverse<u8>, u128)>,
}

impl FreeBlocks {
    /// All of `all` is free.
    pub(super) fn new(all: Block) -> Self {
        Self { all, blocks: BTreeSet::from([(Reverse(all.prefix_len()), all.first())]) }
    }

    /// The smallest block that has room for one of `prefix_len`; the lowest of these.
    pub(super) fn best_fit(&self, prefix_len: u8) -> Option<Block> {
        let (Reverse(found), first) = self.blocks.range((Reverse(prefix_len), 0)..).next()?;
        Some(Block::around(*first, *found))
    }

    /// Takes `wanted` out of the free block `from`.
    pub(super) fn take(&mut self, from: Block, wanted: Block) {
        self.remove(from);
        let mut rest = from;
        while rest != wanted {
            rest = rest.half_with(wanted);
            self.insert(rest.buddy());
        }
    }

    /// Gives back what was taken, and joins it with what is free.
    pub(super) fn release(&mut self, block: Block) {
        let mut joined = block;
        while joined != self.all
            && let Some(whole) = joined.whole()
            && self.remove(joined.buddy())
        {
            joined = whole;
        }
        self.insert(joined);
    }

    fn insert(&mut self, block: Block) {
        self.blocks.insert((Reverse(block.prefix_len()), block.first()));
    }

    fn remove(&mut self, block: Block) -> bool {
        self.blocks.remove(&(Reverse(block.prefix_len()), block.first()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_split_and_joined() {
        let all = Block::around(0x1000, 120);
        let mut free = FreeBlocks::new(all);
        let fresh = free.clone();
        let wanted = Block::around(0x1040, 124);
        free.take(all, wanted);
        let left: Vec<_> = free.blocks.iter().map(|(Reverse(len), first)| (*len, *first)).collect();
        assert_eq!(left, [(124, 0x1050), (123, 0x1060), (122, 0x1000), (121, 0x1080)]);
        assert_eq!(free.best_fit(124), Some(wanted.buddy()), "the smallest that fits");
        assert_eq!(free.best_fit(122), Some(Block::around(0x1000, 122)));
        assert_eq!(free.best_fit(120), None);
        free.release(wanted);
        assert_eq!(free, fresh);
    }
}
