//! Strongly connected components (Tarjan 1972), without recursion, so that a long history does not
//! overflow the stack.

/// The components with more than one node; nodes are `0..edges.len()`.
pub(crate) fn components(edges: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const NEW: usize = usize::MAX;
    let (mut index, mut low) = (vec![NEW; edges.len()], vec![0; edges.len()]);
    let mut on_stack = vec![false; edges.len()];
    let (mut stack, mut found, mut next) = (Vec::new(), Vec::new(), 0);
    for root in 0..edges.len() {
        if index[root] != NEW {
            continue;
        }
        // Nodes under way, each with the position of its next edge.
        let mut calls = vec![(root, 0)];
        while let Some((node, at)) = calls.pop() {
            if at == 0 {
                (index[node], low[node]) = (next, next);
                next += 1;
                stack.push(node);
                on_stack[node] = true;
            } else {
                let child = edges[node][at - 1];
                low[node] = low[node].min(low[child]);
            }
            let mut at = at;
            let mut deeper = None;
            while let Some(&to) = edges[node].get(at) {
                at += 1;
                if index[to] == NEW {
                    deeper = Some(to);
                    break;
                }
                if on_stack[to] {
                    low[node] = low[node].min(index[to]);
                }
            }
            if let Some(to) = deeper {
                calls.push((node, at));
                calls.push((to, 0));
                continue;
            }
            if low[node] == index[node] {
                let mut component = Vec::new();
                while let Some(member) = stack.pop() {
                    on_stack[member] = false;
                    component.push(member);
                    if member == node {
                        break;
                    }
                }
                if component.len() > 1 {
                    component.sort_unstable();
                    found.push(component);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::components;

    #[test]
    fn cycles_are_found_and_trees_are_not() {
        assert!(components(&[vec![1, 2], vec![2], vec![3], vec![]]).is_empty());
        assert_eq!(
            components(&[vec![1], vec![2], vec![0, 3], vec![4], vec![3]]),
            [vec![3, 4], vec![0, 1, 2]]
        );
    }

    #[test]
    fn a_long_chain_does_not_overflow() {
        let last = 200_000;
        let mut edges: Vec<Vec<usize>> = (1..=last).map(|to| vec![to]).collect();
        edges.push(vec![0]);
        assert_eq!(components(&edges)[0].len(), last + 1);
    }
}
