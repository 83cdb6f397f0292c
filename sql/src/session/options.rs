//! Options of a connector as written, checked against its table: aliases resolved, unknown and missing ones refused.

use std::collections::BTreeMap;

use engine::io::OptionSpec;

use crate::error::{Error, Result, nearest, sqlstate};
use crate::parse::Options;

/// The options by their first names, defaults not filled in.
pub fn check(connector: &str, specs: &[OptionSpec], given: Options) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for (name, value) in &given.0 {
        let spec = specs.iter().find(|s| s.name == name || s.aliases.contains(&name.as_str()));
        let at = given.place(name);
        let spec = spec.ok_or_else(|| unknown(connector, specs, name).at(at))?;
        if out.insert(spec.name.to_owned(), value.clone()).is_some() {
            let message = format!("option \"{}\" is given twice", spec.name);
            let detail = format!("\"{name}\" means the same");
            return Err(Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).detail(detail).at(at));
        }
    }
    let missing: Vec<&OptionSpec> = specs.iter().filter(|s| s.required && !out.contains_key(s.name)).collect();
    if let Some(first) = missing.first() {
        let names: Vec<String> = missing.iter().map(|s| format!("{} ({})", s.name, s.help)).collect();
        let message = format!("connector \"{connector}\" needs the option \"{}\"", first.name);
        return Err(
            Error::new(sqlstate::INVALID_PARAMETER_VALUE, message).detail(format!("missing: {}", names.join(", ")))
        );
    }
    Ok(out)
}

fn unknown(connector: &str, specs: &[OptionSpec], name: &str) -> Error {
    let message = format!("connector \"{connector}\" has no option \"{name}\"");
    let error = Error::new(sqlstate::INVALID_PARAMETER_VALUE, message);
    let names = || specs.iter().flat_map(|s| std::iter::once(s.name).chain(s.aliases.iter().copied()));
    match nearest(name, names()) {
        Some(near) => error.hint(format!("did you mean \"{near}\"?")),
        None => error.hint(format!("options: {}", specs.iter().map(|s| s.name).collect::<Vec<_>>().join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[OptionSpec] = &[
        OptionSpec {
            name: "url",
            aliases: &["database.url"],
            required: true,
            default: None,
            help: "where",
            secret: true,
        },
        OptionSpec {
            name: "tables",
            aliases: &["table.include.list"],
            required: false,
            default: None,
            help: "which",
            secret: false,
        },
    ];

    fn check_text(given: &[(&str, &str)]) -> std::result::Result<String, String> {
        let given = given.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        check("postgres", SPECS, Options(given, BTreeMap::new()))
            .map(|o| format!("{o:?}"))
            .map_err(|e| format!("{e} / {}", e.hint.clone().unwrap_or_default()))
    }

    #[test]
    fn aliases_unknown_and_missing() {
        assert_eq!(check_text(&[("database.url", "x")]), Ok(r#"{"url": "x"}"#.into()));
        assert_eq!(
            check_text(&[("url", "x"), ("table", "y")]),
            Err("connector \"postgres\" has no option \"table\" / did you mean \"tables\"?".into())
        );
        assert_eq!(check_text(&[("tables", "x")]), Err("connector \"postgres\" needs the option \"url\" / ".into()));
        assert_eq!(check_text(&[("url", "x"), ("database.url", "y")]), Err("option \"url\" is given twice / ".into()));
    }
}
