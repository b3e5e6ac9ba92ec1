//! Layers on this host, one on top of the other (compare the OCI image specification, `config.md`, "Layer ChainID").

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::storage::image::digest::Digest;

/// What a layer is called together with all those below it; `below` is what those are called. The lowest is not called by
/// its DiffID alone, as its ChainID is: that stands for a tree that fits on top of anything.
pub(crate) fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    let text = below.map_or_else(|| diff_id.to_string(), |below| format!("{below} {diff_id}"));
    Digest::of(text.as_bytes())
}

/// The layers of an image from the lowest up to some layer, with where each is unpacked.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    id: Option<Digest>,
    /// The lowest first.
    layers: Vec<(Digest, PathBuf)>,
}

impl Chain {
    /// What the chain is called with `diff_id` on top.
    pub(crate) fn id_with(&self, diff_id: &Digest) -> Digest {
        chain_id(self.id.as_ref(), diff_id)
    }

    /// Puts a layer, unpacked to `tree`, on top.
    pub(crate) fn push(&mut self, diff_id: Digest, tree: PathBuf) {
        self.id = Some(self.id_with(&diff_id));
        self.layers.push((diff_id, tree));
    }

    /// The layers as an overlay takes them: the uppermost first, each once. Of a layer that occurs twice the upper one
    /// alone shows: it covers every entry of the lower one with the same.
    pub(crate) fn stack(&self) -> Vec<PathBuf> {
        let mut seen = BTreeSet::new();
        let upwards = self.layers.iter().rev().filter(|(diff_id, _)| seen.insert(*diff_id));
        upwards.map(|(_, tree)| tree.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_has_each_layer_once_and_the_uppermost_first() {
        let check = |layers: &str, expected: &str| {
            let mut chain = Chain::default();
            for layer in layers.chars() {
                chain.push(Digest::of(layer.to_string().as_bytes()), PathBuf::from(layer.to_string()));
            }
            let expected: Vec<PathBuf> = expected.chars().map(|layer| layer.to_string().into()).collect();
            assert_eq!(chain.stack(), expected, "{layers}");
        };
        check("", "");
        check("123", "321");
        check("121", "12");
        check("1122", "21");
    }

    #[test]
    fn a_chain_is_called_by_all_that_is_in_it() {
        let [one, two] = ["1", "2"].map(|text| Digest::of(text.as_bytes()));
        let mut chain = Chain::default();
        let lowest = chain.id_with(&one);
        assert_ne!(lowest, one);
        chain.push(one, PathBuf::new());
        assert_eq!(chain.id_with(&two), Digest::of(format!("{lowest} {two}").as_bytes()));
        assert_ne!(chain.id_with(&two), Chain::default().id_with(&two));
    }
}
