//! Altering a topic's configuration: what is asked, and what becomes of it.

use super::access::{ConfigChanges, Error, TopicConfig};
use super::config::{self, ValueType};

/// What shall become of a topic's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterConfig {
    /// These options have these values; all others go back to their defaults, but for [`config::OWN`], which stay.
    Replace(TopicConfig),
    /// One after the other, on what the topic has; the rest stays.
    Incremental(Vec<AlterConfigOp>),
}

/// One option of an [`AlterConfig::Incremental`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlterConfigOp {
    pub name: String,
    pub kind: AlterKind,
}

/// As Kafka's operation types.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlterKind {
    Set(String),
    /// Back to the default.
    Delete,
    /// Adds what is not there yet, comma separated, to a list.
    Append(String),
    /// Takes away what is there of these, comma separated, from a list.
    Subtract(String),
}

impl AlterConfig {
    /// What `config` becomes, as a whole or not at all. [`Error::InvalidConfig`] or
    /// [`Error::UnknownConfig`] names the first option that cannot be.
    pub fn apply(&self, config: &TopicConfig) -> Result<TopicConfig, Error> {
        let altered = match self {
            AlterConfig::Replace(altered) => {
                let own = config.iter().filter(|(name, _)| config::OWN.contains(&name.as_str()));
                let own = own.map(|(name, value)| (name.clone(), value.clone()));
                own.chain(altered.clone()).collect()
            }
            AlterConfig::Incremental(ops) => {
                let mut altered = config.clone();
                for op in ops {
                    op.apply(&mut altered)?;
                }
                altered
            }
        };
        config::check(&altered)?;
        Ok(altered)
    }
}

impl From<ConfigChanges> for AlterConfig {
    fn from(changes: ConfigChanges) -> AlterConfig {
        let ops = changes.into_iter().map(|(name, value)| {
            let kind = value.map_or(AlterKind::Delete, AlterKind::Set);
            AlterConfigOp { name, kind }
        });
        AlterConfig::Incremental(ops.collect())
    }
}

impl AlterConfigOp {
    fn apply(&self, config: &mut TopicConfig) -> Result<(), Error> {
        let name = &self.name;
        match &self.kind {
            AlterKind::Set(value) => drop(config.insert(name.clone(), value.clone())),
            AlterKind::Delete => {
                self.spec()?;
                config.remove(name);
            }
            AlterKind::Append(value) => {
                let mut items = self.items(config, value)?;
                for item in parts(value) {
                    if !items.contains(&item) {
                        items.push(item);
                    }
                }
                let joined = items.join(",");
                config.insert(name.clone(), joined);
            }
            AlterKind::Subtract(value) => {
                let mut items = self.items(config, value)?;
                items.retain(|item| !parts(value).any(|gone| gone == *item));
                let joined = items.join(",");
                config.insert(name.clone(), joined);
            }
        }
        Ok(())
    }

    fn spec(&self) -> Result<&'static config::ConfigSpec, Error> {
        config::spec(&self.name).ok_or_else(|| Error::UnknownConfig { name: self.name.clone() })
    }

    /// What the list holds now. The time that it takes to alter it goes with the lengths of both.
    fn items<'a>(&self, config: &'a TopicConfig, asked: &str) -> Result<Vec<&'a str>, Error> {
        if asked.len() > config::VALUE_BYTES_MAX {
            return Err(self.refused("", "it is longer than a value may be"));
        }
        if self.spec()?.value_type() != ValueType::List {
            return Err(self.refused(asked, "it is no list that could be added to or taken from"));
        }
        Ok(parts(config::value(config, &self.name)).collect())
    }

    fn refused(&self, value: &str, reason: &'static str) -> Error {
        Error::InvalidConfig { name: self.name.clone(), value: value.to_owned(), reason: reason.to_owned() }
    }
}

fn parts(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(options: &[(&str, &str)]) -> TopicConfig {
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn op(name: &str, kind: AlterKind) -> AlterConfigOp {
        AlterConfigOp { name: name.to_owned(), kind }
    }

    /// `expect` is the outcome, or a word of the refusal.
    fn check(from: &[(&str, &str)], alter: &AlterConfig, expect: Result<&[(&str, &str)], &str>) {
        let before = config(from);
        match (alter.apply(&before), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, config(expect), "{alter:?}"),
            (Err(error), Err(expect)) => assert!(error.to_string().contains(expect), "{alter:?}: {error}"),
            (found, expect) => panic!("{alter:?}: {found:?}, not {expect:?}"),
        }
    }

    #[test]
    fn a_replacement_leaves_nothing_of_what_was() {
        let with = |options| AlterConfig::Replace(config(options));
        check(&[("retention.ms", "1")], &with(&[("segment.ms", "2")]), Ok(&[("segment.ms", "2")]));
        check(&[("retention.ms", "1")], &with(&[]), Ok(&[]));
        let own = [("riverrun.used_by", "table t"), ("riverrun.writer", "sink s")];
        check(&own, &with(&[("riverrun.writer", "sink r")]), Ok(&[own[0], ("riverrun.writer", "sink r")]));
        check(&[], &with(&[("retention.ms", "x")]), Err("retention.ms"));
        check(&[], &with(&[("no.such", "x")]), Err("no topic option no.such"));
    }

    #[test]
    fn operations_work_on_what_is_there() {
        let one = |name, kind| AlterConfig::Incremental(vec![op(name, kind)]);
        let text = |value: &str| value.to_owned();
        let (set, append, subtract) = (
            |name, value| one(name, AlterKind::Set(text(value))),
            |value| one("cleanup.policy", AlterKind::Append(text(value))),
            |value| one("cleanup.policy", AlterKind::Subtract(text(value))),
        );
        let kept = [("retention.ms", "1")];
        check(&kept, &set("segment.ms", "2"), Ok(&[("retention.ms", "1"), ("segment.ms", "2")]));
        check(&kept, &set("retention.ms", "2"), Ok(&[("retention.ms", "2")]));
        check(&kept, &set("retention.ms", "-2"), Err("at least -1"));
        check(&kept, &one("retention.ms", AlterKind::Delete), Ok(&[]));
        check(&kept, &one("segment.ms", AlterKind::Delete), Ok(&kept));
        check(&kept, &one("no.such", AlterKind::Delete), Err("no topic option no.such"));
        // A list that the topic says nothing of begins with its default.
        check(&[], &append("compact"), Ok(&[("cleanup.policy", "delete,compact")]));
        check(&[("cleanup.policy", "compact")], &append("delete,compact"), Ok(&[("cleanup.policy", "compact,delete")]));
        check(&[("cleanup.policy", "compact, delete")], &subtract("delete"), Ok(&[("cleanup.policy", "compact")]));
        check(&[], &subtract("compact"), Ok(&[("cleanup.policy", "delete")]));
        check(&[], &subtract("delete"), Ok(&[("cleanup.policy", "")]));
        check(&[], &append("zip"), Err("one of"));
        check(&[], &one("retention.ms", AlterKind::Append(text("1"))), Err("no list"));
        check(&[], &one("no.such", AlterKind::Subtract(text("1"))), Err("no topic option no.such"));
        let several = AlterConfig::Incremental(vec![
            op("cleanup.policy", AlterKind::Append(text("compact"))),
            op("min.compaction.lag.ms", AlterKind::Set(text("9"))),
            op("cleanup.policy", AlterKind::Subtract(text("delete"))),
        ]);
        check(&[], &several, Ok(&[("cleanup.policy", "compact"), ("min.compaction.lag.ms", "9")]));
    }
}
