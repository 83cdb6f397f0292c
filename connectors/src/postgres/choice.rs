//! Which tables a source captures, by the options `tables` and `exclude`.

use engine::io::Error;

use super::error::user;
use super::protocol::walsender::{literal, quoted};

/// Which tables a source captures: those of one list that are not in the other.
#[derive(Clone, Debug)]
pub struct Tables {
    chosen: List,
    excluded: List,
}

/// Entries `schema.table`, where `*` stands for any run of characters and `?` for one.
#[derive(Clone, Debug, Default)]
struct List(Vec<(Pattern, Pattern)>);

/// A name, or with `*` and `?` many.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    text: String,
    /// Quoted: every character is itself.
    exact: bool,
}

impl Tables {
    /// Reads the values of the options `tables` and `exclude`. What is named, rather than met by a pattern, must not be
    /// excluded.
    pub fn new(chosen: &str, excluded: Option<&str>) -> Result<Tables, Error> {
        let tables = Tables {
            chosen: List::parse("tables", chosen)?,
            excluded: excluded.map(|list| List::parse("exclude", list)).transpose()?.unwrap_or_default(),
        };
        if let Some((schema, table)) = tables.named().find(|(schema, table)| tables.excluded.matches(schema, table)) {
            return Err(user(
                format!("table {schema}.{table} is both named in tables and left out by exclude"),
                "take it from one of the two",
            ));
        }
        Ok(tables)
    }

    pub fn matches(&self, schema: &str, table: &str) -> bool {
        self.chosen.matches(schema, table) && !self.excluded.matches(schema, table)
    }

    /// The entries that name one table, as (schema, table).
    pub fn named(&self) -> impl Iterator<Item = (&str, &str)> {
        let one = |pattern: &Pattern| pattern.exact || !pattern.text.contains(['*', '?']);
        self.chosen.0.iter().filter(move |(s, t)| one(s) && one(t)).map(|(s, t)| (s.text.as_str(), t.text.as_str()))
    }
}

/// The value of `exclude` that leaves this table out, as a literal of SQL.
pub fn excluding(schema: &str, table: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    let written = |name: &str| if name.chars().all(plain) { name.to_owned() } else { quoted(name) };
    literal(&format!("{}.{}", written(schema), written(table)))
}

impl List {
    /// Reads `public.orders, shop."Strange, name"`. Debezium's `public\.orders` means the same.
    fn parse(option: &str, list: &str) -> Result<List, Error> {
        let invalid = |what: &str| {
            user(
                format!("{option} = {list:?}: {what}"),
                "write schema.table, separated by commas, with * for any part of a name",
            )
        };
        let mut tables = Vec::new();
        let mut parts: Vec<Pattern> = Vec::new();
        let mut part = Pattern { text: String::new(), exact: false };
        let mut quoted = false;
        let mut characters = list.chars().chain([',']).peekable();
        while let Some(c) = characters.next() {
            match c {
                '"' if quoted && characters.peek() == Some(&'"') => {
                    characters.next();
                    part.text.push('"');
                }
                '"' => {
                    quoted = !quoted;
                    part.exact = true;
                }
                _ if quoted => part.text.push(c),
                '\\' if characters.peek() == Some(&'.') => {}
                '.' | ',' => {
                    if part.text.is_empty() {
                        return Err(invalid("a name is empty"));
                    }
                    parts.push(std::mem::replace(&mut part, Pattern { text: String::new(), exact: false }));
                    if c == ',' {
                        let [schema, table] = <[Pattern; 2]>::try_from(std::mem::take(&mut parts))
                            .map_err(|_| invalid("an entry has not the form schema.table"))?;
                        tables.push((schema, table));
                    }
                }
                c if c.is_whitespace() => {}
                '\\' | '[' | ']' | '(' | ')' | '|' | '+' | '^' | '$' | '{' | '}' => {
                    return Err(invalid("regular expressions are not supported"));
                }
                _ => part.text.push(c),
            }
        }
        match quoted {
            true => Err(invalid("a quote is not closed")),
            false => Ok(List(tables)),
        }
    }

    fn matches(&self, schema: &str, table: &str) -> bool {
        self.0.iter().any(|(schemas, tables)| schemas.matches(schema) && tables.matches(table))
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        if self.exact {
            return self.text == name;
        }
        let pattern: Vec<char> = self.text.chars().collect();
        let name: Vec<char> = name.chars().collect();
        // The last star seen, and how much of the name it has swallowed.
        let (mut at, mut p, mut star) = (0, 0, None);
        while at < name.len() {
            if p < pattern.len() && pattern[p] == '*' {
                star = Some((p, at));
                p += 1;
            } else if p < pattern.len() && (pattern[p] == '?' || pattern[p] == name[at]) {
                p += 1;
                at += 1;
            } else if let Some((from, swallowed)) = star {
                star = Some((from, swallowed + 1));
                p = from + 1;
                at = swallowed + 1;
            } else {
                return false;
            }
        }
        pattern[p..].iter().all(|&c| c == '*')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_choose_tables() {
        for (list, table, expect) in [
            ("public.*", ("public", "orders"), true),
            ("public.*", ("shop", "orders"), false),
            ("public.orders, public.items", ("public", "items"), true),
            ("public\\.orders", ("public", "orders"), true),
            ("*.or*s", ("shop", "orders"), true),
            ("*.or*s", ("shop", "order"), false),
            ("public.order?", ("public", "orders"), true),
            ("public.\"a.b, \"\"c*\"", ("public", "a.b, \"c*"), true),
            ("public.\"*\"", ("public", "orders"), false),
        ] {
            assert_eq!(Tables::new(list, None).unwrap().matches(table.0, table.1), expect, "{list}");
        }
        for bad in ["", "orders", "a.b.c", "public.(a|b)", "public.\"a", "public.,a.b", "a.b,,c.d"] {
            assert!(Tables::new(bad, None).is_err(), "{bad}");
        }
    }

    #[test]
    fn excluded_tables_are_left_out() {
        let tables = Tables::new("public.*, shop.orders", Some("public.log, *.tmp_?")).unwrap();
        for (table, expect) in [
            (("public", "orders"), true),
            (("shop", "orders"), true),
            (("public", "log"), false),
            (("public", "logs"), true),
            (("public", "tmp_1"), false),
            (("public", "tmp_10"), true),
        ] {
            assert_eq!(tables.matches(table.0, table.1), expect, "{table:?}");
        }
        assert_eq!(tables.named().collect::<Vec<_>>(), [("shop", "orders")]);
        let error = Tables::new("public.log", Some("public.*")).unwrap_err();
        assert!(error.to_string().contains("public.log"), "{error}");
        assert!(Tables::new("public.*", Some("log")).unwrap_err().to_string().contains("exclude = \"log\""));
        for (schema, table) in [("public", "log"), ("Shop's", "a.\"b, *")] {
            let excluded = excluding(schema, table);
            let value = excluded.trim_matches('\'').replace("''", "'");
            assert!(!Tables::new("*.*", Some(&value)).unwrap().matches(schema, table), "{excluded}");
        }
    }
}
