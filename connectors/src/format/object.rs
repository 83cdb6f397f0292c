//! One JSON object, field by field, without a tree: the grammar is serde_json's, the values stay slices of the input.
//! Nothing here recurses with the input, whatever its depth.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Finds the place of a field by its name, the first of several equal ones; fields mostly come in the order of the columns.
#[derive(Debug)]
pub(crate) struct Names {
    names: Vec<String>,
    places: std::collections::HashMap<String, usize>,
}

impl Names {
    pub(crate) fn new<'n>(names: impl IntoIterator<Item = &'n str>) -> Self {
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        let mut places = std::collections::HashMap::with_capacity(names.len());
        for (place, name) in names.iter().enumerate() {
            places.entry(name.clone()).or_insert(place);
        }
        Self { names, places }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    /// `expected` is the place to look at first.
    fn place(&self, name: &str, expected: usize) -> Option<usize> {
        if self.names.get(expected).is_some_and(|n| n == name) {
            return Some(expected);
        }
        self.places.get(name).copied()
    }
}

/// Reads `text`, which must be one object, and puts the raw text of each field that `names` knows into its slot; the
/// last of several fields of one name counts. Slots of absent fields are left as they are.
pub(crate) fn read<'a>(text: &'a str, names: &Names, slots: &mut [Option<&'a str>]) -> Result<(), String> {
    assert_eq!(names.len(), slots.len(), "a slot a name");
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_map(Fields { names, slots }).and_then(|()| json.end());
    read.map_err(|error| error.to_string())
}

/// Whether a raw value is the word null.
pub(crate) fn is_null(raw: &str) -> bool {
    raw == "null"
}

/// The text of a raw JSON string; `None` for any other value and for strings with lone surrogates.
pub(crate) fn string(raw: &str) -> Option<Cow<'_, str>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str::<String>(raw).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

struct Fields<'n, 's, 'a> {
    names: &'n Names,
    slots: &'s mut [Option<&'a str>],
}

impl<'a> Visitor<'a> for Fields<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let mut expected = 0;
        while let Some(place) = map.next_key_seed(Place { names: self.names, expected })? {
            match place {
                Some(place) => {
                    self.slots[place] = Some(map.next_value::<&RawValue>()?.get());
                    expected = place + 1;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct Place<'n> {
    names: &'n Names,
    expected: usize,
}

impl<'a> DeserializeSeed<'a> for Place<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Place<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.names.place(name, self.expected))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Result<[Option<&str>; 2], ()>) {
        let names = Names::new(["a", "b"]);
        let mut slots = [None, None];
        let read = read(text, &names, &mut slots);
        assert_eq!(read.map(|()| slots).map_err(drop), expect, "{text}");
    }

    #[test]
    fn finds_fields_in_any_order() {
        check(r#"{"a":1,"b":"x"}"#, Ok([Some("1"), Some(r#""x""#)]));
        check(r#" { "b" : [1, {"a":2}] , "c":{"a":3}, "a":null } "#, Ok([Some("null"), Some(r#"[1, {"a":2}]"#)]));
        check(r#"{"\u0061":1}"#, Ok([Some("1"), None]));
        check(r#"{"a":1,"a":2}"#, Ok([Some("2"), None]));
        check("{}", Ok([None, None]));
    }

    #[test]
    fn refuses_what_is_no_object() {
        for text in ["", "1", "null", "[1]", "{", r#"{"a":}"#, r#"{"a":1}}"#, r#"{"a":01}"#, r#"{a:1}"#, r#"{"a":1,}"#]
        {
            check(text, Err(()));
        }
    }

    #[test]
    fn depth_costs_no_stack() {
        let deep = format!(
            r#"{{"a":{}{},"c":{}{}}}"#,
            "[".repeat(500_000),
            "]".repeat(500_000),
            "[".repeat(500_000),
            "]".repeat(500_000)
        );
        let names = Names::new(["a"]);
        let mut slots = [None];
        read(&deep, &names, &mut slots).unwrap();
        assert_eq!(slots[0].map(str::len), Some(1_000_000));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,80}", like in r#"[{}\[\],:"ab01\\un. -]{0,60}"#) {
            let names = Names::new(["a", "b"]);
            for text in [&text, &like] {
                let mut slots = [None, None];
                if read(text, &names, &mut slots).is_ok() {
                    slots.iter().flatten().for_each(|raw| drop(string(raw)));
                }
            }
        }
    }
}
