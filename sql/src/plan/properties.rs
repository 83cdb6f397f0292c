//! [`Properties`]: what is proved of a relation inside a plan: its keys, equal columns, whether rows only come.

/// Keys kept at most; more would only be longer ways to say the same.
const KEYS_MAX: usize = 8;

#[derive(Clone, Debug, Default)]
pub struct Properties {
    pub append_only: bool,
    /// Sets of columns, each of which identifies a row. `[]`: there is one row.
    pub keys: Vec<Vec<usize>>,
    /// Columns that hold the same value in every row.
    pub equal: Vec<(usize, usize)>,
}

impl Properties {
    /// The shortest key, of several the first.
    pub fn key(&self) -> Option<Vec<usize>> {
        self.keys.iter().min_by_key(|key| (key.len(), (*key).clone())).cloned()
    }

    /// Of a projection; `sources[j]` is the input column that output column `j` passes on.
    pub fn project(&self, sources: &[Option<usize>]) -> Self {
        let output = |column: usize| sources.iter().position(|s| *s == Some(column));
        // A column that is gone may live on in one that equals it.
        let kept = |column: usize| output(column).or_else(|| self.equals(column).into_iter().find_map(output));
        let keys = self.keys.iter().filter_map(|key| key.iter().map(|c| kept(*c)).collect()).map(sorted).collect();
        let mut equal: Vec<(usize, usize)> = Vec::new();
        for (a, source) in sources.iter().enumerate() {
            let Some(source) = source else { continue };
            let others = sources.iter().enumerate().skip(a + 1);
            equal.extend(others.filter(|(_, s)| s.is_some_and(|s| self.are_equal(*source, s))).map(|(b, _)| (a, b)));
        }
        Self { append_only: self.append_only, keys, equal }
    }

    /// Of an inner join; `on` are the pairs of (left, right) columns that are compared, `width` the columns of the left.
    pub fn join(&self, right: &Self, on: &[(usize, usize)], width: usize) -> Self {
        let shift = |key: &Vec<usize>| key.iter().map(|c| c + width).collect::<Vec<usize>>();
        let within = |key: &Vec<usize>, side: &dyn Fn(&(usize, usize)) -> usize, of: &Self| {
            key.iter().all(|c| on.iter().any(|pair| of.are_equal(side(pair), *c)))
        };
        let mut keys: Vec<Vec<usize>> = Vec::new();
        // At most one match on the other side: a row's own key is enough.
        if right.keys.iter().any(|key| within(key, &|pair| pair.1, right)) {
            keys.extend(self.keys.iter().cloned());
        }
        if self.keys.iter().any(|key| within(key, &|pair| pair.0, self)) {
            keys.extend(right.keys.iter().map(shift));
        }
        for a in &self.keys {
            for b in &right.keys {
                keys.push(sorted(a.iter().copied().chain(shift(b)).collect()));
            }
        }
        keys.dedup();
        keys.truncate(KEYS_MAX);
        let mut equal = self.equal.clone();
        equal.extend(right.equal.iter().map(|(a, b)| (a + width, b + width)));
        equal.extend(on.iter().map(|(a, b)| (*a, b + width)));
        Self { append_only: self.append_only && right.append_only, keys, equal }
    }

    fn are_equal(&self, a: usize, b: usize) -> bool {
        a == b || self.equals(a).contains(&b)
    }

    /// The columns that equal `column`, others than itself.
    fn equals(&self, column: usize) -> Vec<usize> {
        let mut found = vec![column];
        let mut at = 0;
        while at < found.len() {
            for (a, b) in &self.equal {
                for (from, to) in [(a, b), (b, a)] {
                    if *from == found[at] && !found.contains(to) {
                        found.push(*to);
                    }
                }
            }
            at += 1;
        }
        found.split_off(1)
    }
}

fn sorted(mut key: Vec<usize>) -> Vec<usize> {
    key.sort_unstable();
    key.dedup();
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyed(key: &[usize]) -> Properties {
        Properties { keys: vec![key.to_vec()], ..Properties::default() }
    }

    #[test]
    fn a_join_by_the_key_keeps_the_other_key() {
        // orders(id, customer) ⋈ customers(id, name) on customer = customers.id
        let joined = keyed(&[0]).join(&keyed(&[0]), &[(1, 0)], 2);
        assert_eq!(joined.key(), Some(vec![0]));
        // Without a key among the compared columns both are needed.
        let joined = keyed(&[0]).join(&keyed(&[0]), &[(1, 1)], 2);
        assert_eq!(joined.key(), Some(vec![0, 2]));
        // One row joins with anything.
        let joined = keyed(&[]).join(&keyed(&[1]), &[(0, 0)], 1);
        assert_eq!(joined.key(), Some(vec![2]));
    }

    #[test]
    fn a_key_survives_in_an_equal_column() {
        let joined = keyed(&[0]).join(&keyed(&[0]), &[(0, 0)], 2);
        assert_eq!(joined.project(&[None, Some(2)]).key(), Some(vec![1]));
        assert_eq!(joined.project(&[Some(1)]).key(), None);
    }
}
