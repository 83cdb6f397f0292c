//! Results in the terminal: an aligned table as psql draws it, or JSON.

use std::fmt::Write as _;

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Output {
    /// Aligned columns
    Table,
    /// One array of objects a result
    Json,
}

/// A result: the columns' names and rows of texts.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    pub(super) fn render(&self, output: Output) -> String {
        match output {
            Output::Table => self.table(),
            Output::Json => self.json(),
        }
    }

    fn table(&self) -> String {
        let shown: Vec<Vec<String>> = self.rows.iter().map(|row| row.iter().map(cell).collect()).collect();
        let width = |column: usize, name: &String| {
            let values = shown.iter().map(|row| row[column].chars().count());
            values.chain([name.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(|(column, name)| width(column, name)).collect();
        let numeric: Vec<bool> = (0..widths.len()).map(|column| self.is_numeric(column)).collect();
        let mut out = String::new();
        line(&mut out, &self.columns, &widths, &vec![false; widths.len()]);
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        writeln!(out, "{}", rule.join("+")).expect("a string takes everything");
        shown.iter().for_each(|row| line(&mut out, row, &widths, &numeric));
        let s = if shown.len() == 1 { "" } else { "s" };
        writeln!(out, "({} row{s})", shown.len()).expect("a string takes everything");
        out
    }

    /// Whether every value of a column looks like a number: such columns stand to the right.
    fn is_numeric(&self, column: usize) -> bool {
        let mut values = self.rows.iter().filter_map(|row| row[column].as_deref()).peekable();
        values.peek().is_some() && values.all(|value| value.parse::<f64>().is_ok())
    }

    fn json(&self) -> String {
        let object = |row: &Vec<Option<String>>| {
            let field = |(name, value): (&String, &Option<String>)| {
                let value = value.clone().map_or(serde_json::Value::Null, serde_json::Value::String);
                format!("{}:{value}", serde_json::Value::String(name.clone()))
            };
            let fields: Vec<String> = self.columns.iter().zip(row).map(field).collect();
            format!("{{{}}}", fields.join(","))
        };
        let rows: Vec<String> = self.rows.iter().map(object).collect();
        format!("[{}]\n", rows.join(",\n "))
    }
}

fn cell(value: &Option<String>) -> String {
    match value {
        None => String::new(),
        // A line break or another control character would break the table.
        Some(text) => text.chars().map(|c| if c.is_control() { '·' } else { c }).collect(),
    }
}

fn line(out: &mut String, cells: &[String], widths: &[usize], right: &[bool]) {
    let padded =
        cells.iter().zip(widths).zip(right).map(|((cell, width), right)| {
            if *right { format!(" {cell:>width$} ") } else { format!(" {cell:<width$} ") }
        });
    let text = padded.collect::<Vec<_>>().join("|");
    writeln!(out, "{}", text.trim_end()).expect("a string takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_json() {
        let row = |n: &str, t: Option<&str>| vec![Some(n.to_owned()), t.map(str::to_owned)];
        let rows =
            Rows { columns: vec!["n".into(), "text".into()], rows: vec![row("1", Some("é\n")), row("-12.5", None)] };
        assert_eq!(
            rows.render(Output::Table),
            "   n   | text\n-------+------\n     1 | é·\n -12.5 |\n(2 rows)\n".replacen("   n   ", " n     ", 1)
        );
        assert_eq!(rows.render(Output::Json), "[{\"n\":\"1\",\"text\":\"é\\n\"},\n {\"n\":\"-12.5\",\"text\":null}]\n");
    }
}
