//! Options by their table: aliases resolved, defaults filled in, the unknown and the missing refused.

use std::collections::BTreeMap;

use engine::io::{Error, OptionSpec, Options};

/// The values by their first names. A name given twice, under whatever alias, is an error.
pub fn resolve(specs: &[OptionSpec], given: &Options) -> Result<BTreeMap<&'static str, String>, Error> {
    let mut values = BTreeMap::new();
    for (name, value) in given {
        if name == "connector" {
            continue;
        }
        let Some(spec) = specs.iter().find(|spec| spec.name == name || spec.aliases.contains(&name.as_str())) else {
            let known: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
            return Err(Error::User {
                message: format!("unknown option {name:?}"),
                hint: Some(format!("the options are {}", known.join(", "))),
            });
        };
        if values.insert(spec.name, value.clone()).is_some() {
            let message = format!("option {:?} is given twice ({name:?} means the same)", spec.name);
            return Err(Error::User { message, hint: None });
        }
    }
    for spec in specs {
        if let Some(default) = spec.default {
            values.entry(spec.name).or_insert_with(|| default.to_owned());
        }
        if spec.required && !values.contains_key(spec.name) {
            let message = format!("option {:?} is missing", spec.name);
            return Err(Error::User { message, hint: Some(format!("{}: {}", spec.name, spec.help)) });
        }
    }
    Ok(values)
}
