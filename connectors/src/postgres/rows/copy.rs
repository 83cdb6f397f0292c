//! Rows in COPY's text format: fields between tabs, `\N` for null, backslash escapes, one line a row.

/// Splits lines into fields; keeps its buffers from row to row.
#[derive(Debug, Default)]
pub struct Line {
    /// The unescaped line, when there was anything to unescape.
    unescaped: Vec<u8>,
    /// Where the fields are, in the line or in `unescaped`; `None` is null.
    fields: Vec<Option<(usize, usize)>>,
}

impl Line {
    /// Splits `line`, which may end in a line feed. The fields borrow from it or from `self`.
    pub fn split<'a>(&'a mut self, line: &'a [u8]) -> impl ExactSizeIterator<Item = Option<&'a [u8]>> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        self.fields.clear();
        let text = if line.contains(&b'\\') {
            self.unescape(line);
            &self.unescaped[..]
        } else {
            let mut from = 0;
            for field in line.split(|&byte| byte == b'\t') {
                self.fields.push(Some((from, from + field.len())));
                from += field.len() + 1;
            }
            line
        };
        self.fields.iter().map(move |field| field.map(|(from, to)| &text[from..to]))
    }

    fn unescape(&mut self, line: &[u8]) {
        self.unescaped.clear();
        for field in line.split(|&byte| byte == b'\t') {
            if field == b"\\N" {
                self.fields.push(None);
                continue;
            }
            let from = self.unescaped.len();
            let mut bytes = field.iter();
            while let Some(&byte) = bytes.next() {
                // The server escapes only these; any other escaped byte stands for itself.
                let plain = match byte {
                    b'\\' => match bytes.next() {
                        Some(b'b') => 8,
                        Some(b'f') => 12,
                        Some(b'n') => b'\n',
                        Some(b'r') => b'\r',
                        Some(b't') => b'\t',
                        Some(b'v') => 11,
                        Some(&other) => other,
                        None => b'\\',
                    },
                    byte => byte,
                };
                self.unescaped.push(plain);
            }
            self.fields.push(Some((from, self.unescaped.len())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use proptest::prelude::*;

    fn escaped(field: &Option<Vec<u8>>) -> Vec<u8> {
        let Some(field) = field else { return b"\\N".to_vec() };
        let mut out = Vec::new();
        for &byte in field {
            match byte {
                b'\\' => out.extend_from_slice(b"\\\\"),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\r' => out.extend_from_slice(b"\\r"),
                11 => out.extend_from_slice(b"\\v"),
                12 => out.extend_from_slice(b"\\f"),
                8 => out.extend_from_slice(b"\\b"),
                byte => out.push(byte),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn rows_read_back(row in prop::collection::vec(prop::option::of("[\\\\\t\n\r\u{b}\u{c}\u{8}aN]{0,6}".prop_map(String::into_bytes)), 1..6)) {
            let mut line = row.iter().map(escaped).collect::<Vec<_>>().join(&b'\t');
            line.push(b'\n');
            let mut splitter = Line::default();
            let read: Vec<_> = splitter.split(&line).map(|field| field.map(<[u8]>::to_vec)).collect();
            prop_assert_eq!(read, row);
        }

        #[test]
        fn no_bytes_panic(line: Vec<u8>) {
            let mut splitter = Line::default();
            prop_assert!(splitter.split(&line).count() > 0);
        }
    }
}
