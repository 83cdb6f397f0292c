//! Prometheus' text format, version 0.0.4: families of samples with labels.

use std::fmt::Write as _;

/// A page on its way. All samples of a family are added one after the other.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    /// Begins a family; `kind` is `gauge` or `counter`.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").expect("a string takes everything");
    }

    /// A family of one sample without labels.
    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Adds a sample to the family begun last.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if place == 0 { '{' } else { ',' };
            write!(self.0, "{open}{label}=\"{text}\"").expect("a string takes everything");
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let value = if value == f64::INFINITY { "+Inf".to_owned() } else { value.to_string() };
        writeln!(self.0, "{close} {value}").expect("a string takes everything");
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut page = Page::default();
        page.single("a_total", "counter", "How many.", 3.0);
        page.family("b", "gauge", "What.");
        page.sample("b", &[("x", "a\"b\\c\nd"), ("y", "")], 0.5);
        page.sample("b", &[], f64::INFINITY);
        let expect = "# HELP a_total How many.\n# TYPE a_total counter\na_total 3\n# HELP b What.\n# TYPE b gauge\n\
            b{x=\"a\\\"b\\\\c\\nd\",y=\"\"} 0.5\nb +Inf\n";
        assert_eq!(page.finish(), expect);
    }
}
