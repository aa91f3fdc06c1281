//! The best chain against a model that keeps everything and knows nothing of pieces, indexes and branches.

use std::collections::{HashMap, VecDeque};

use super::*;

/// All headers that were taken, in the order in which they came, the first block before them.
struct Model {
    seen: Vec<Header>,
    /// By hash, with how many are below.
    known: HashMap<BlockHash, (Header, u32)>,
    best: Header,
}

impl Model {
    fn new() -> Self {
        let best = Header::regtest_genesis();
        Self { seen: vec![best], known: HashMap::from([(best.hash(), (best, 0))]), best }
    }

    fn depth(&self, hash: &BlockHash) -> Option<u32> {
        Some(self.known.get(hash)?.1)
    }

    /// From the first block to this one.
    fn path(&self, to: &BlockHash) -> Vec<Header> {
        let mut path: Vec<Header> = Vec::new();
        let mut next = *to;
        while let Some((header, _)) = self.known.get(&next) {
            path.push(*header);
            next = header.previous();
        }
        path.reverse();
        path
    }

    /// All of them or none; how many were new.
    fn take(&mut self, headers: &[Header]) -> Option<usize> {
        let before = self.seen.len();
        for header in headers {
            let hash = header.hash();
            if self.known.contains_key(&hash) {
                continue;
            }
            let Some(depth) = self.depth(&header.previous()) else {
                for header in self.seen.drain(before..) {
                    self.known.remove(&header.hash());
                }
                return None;
            };
            self.seen.push(*header);
            self.known.insert(hash, (*header, depth + 1));
        }
        // On regtest all headers have the same work: the longest wins, among equals the first.
        for header in self.seen.iter().skip(before) {
            if self.depth(&header.hash()) > self.depth(&self.best.hash()) {
                self.best = *header;
            }
        }
        Some(self.seen.len() - before)
    }
}

/// A tree of headers: each on an earlier one, more often on a late one, so that there are long branches.
fn tree() -> impl Strategy<Value = Vec<Header>> {
    prop::collection::vec((0usize..1000, prop::bool::weighted(0.7)), 1..70).prop_map(|parents| {
        let mut headers = vec![Header::regtest_genesis()];
        for (index, (parent, late)) in parents.into_iter().enumerate() {
            let reach = if late { headers.len().min(3) } else { headers.len() };
            let parent = headers[headers.len() - 1 - parent % reach];
            headers.push(mine(&parent, index as u8));
        }
        headers.split_off(1)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_in_any_order_gives_the_chain_of_the_model(
        (tree, order) in tree().prop_flat_map(|tree| {
            let order = Just((0..tree.len()).collect::<Vec<_>>()).prop_shuffle();
            (Just(tree), order)
        }),
        sizes in prop::collection::vec(1usize..8, 1..20),
        tidy: bool,
    ) {
        let mut model = Model::new();
        let mut chain = regtest();
        let mut held: Vec<(HeaderChain, Vec<Header>)> = Vec::new();
        // What comes before its parent comes again, until all are in. In the order in which they were made batches hold
        // together; in any other most of them are refused first.
        let order = if tidy { (0..tree.len()).collect() } else { order };
        let mut waiting: VecDeque<Header> = order.iter().map(|index| tree[*index]).collect();
        let mut sizes = sizes.into_iter().cycle();
        let mut refused = 0;
        while !waiting.is_empty() {
            let size = if refused > waiting.len() { 1 } else { sizes.next().unwrap_or(1) };
            let batch: Vec<Header> = waiting.drain(..size.min(waiting.len())).collect();
            let old = chain.tip();
            let taken = chain.connect(&batch);
            match model.take(&batch) {
                Some(new) => {
                    refused = 0;
                    let taken = taken.unwrap();
                    prop_assert_eq!(taken.added, new);
                    let now = model.path(&model.best.hash());
                    let before = model.path(&old.hash);
                    let shared = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
                    let left: Vec<BlockHash> = before[shared..].iter().map(Header::hash).collect();
                    let reorg = (!left.is_empty())
                        .then(|| Reorg { fork_height: shared as u32 - 1, disconnected: left });
                    prop_assert_eq!(taken.reorged, reorg);
                }
                None => {
                    refused += 1;
                    let unknown = matches!(taken, Err(HeaderError::UnknownParent { .. }));
                    prop_assert!(unknown, "{:?}", taken);
                    waiting.extend(batch);
                }
            }
            let best = model.path(&model.best.hash());
            prop_assert_eq!(chain.tip(), Tip { height: best.len() as u32 - 1, hash: model.best.hash() });
            prop_assert_eq!(chain.run(0, usize::MAX), best.clone());
            prop_assert_eq!(chain.work().to_string(), (best.len() * 2).to_string());
            for (hash, (header, depth)) in &model.known {
                let height = best.get(*depth as usize).is_some_and(|on| on == header).then_some(*depth);
                prop_assert_eq!(chain.height_of(hash), height);
            }
            held.push((chain.snapshot(), best));
        }
        for (snapshot, best) in held {
            prop_assert_eq!(snapshot.run(0, usize::MAX), best.clone());
            for (height, header) in best.iter().enumerate() {
                prop_assert_eq!(snapshot.height_of(&header.hash()), Some(height as u32));
            }
        }
    }
}
