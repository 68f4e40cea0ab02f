//! Where a setting's text comes from: a flag, else a variable, else the file that a variable names.

use super::table::{Empty, Setting};
use crate::error::{Failure, Kind};
use crate::sys::open_value;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::Path;

/// A file that holds one setting is not larger than this.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// What flags and variables say.
pub(super) struct Source<'a> {
    pub(super) matches: &'a clap::ArgMatches,
    pub(super) environment: &'a dyn Fn(&str) -> Option<OsString>,
}

/// A text that was given, and where, for the message if it makes no sense.
pub(super) struct Given {
    pub(super) text: OsString,
    pub(super) origin: String,
    /// Whether it was in a file: what is in one may be anything, and is never shown.
    pub(super) is_from_file: bool,
}

fn usage(message: String) -> Failure {
    Failure::new(Kind::Usage, message)
}

impl Source<'_> {
    /// The text that was given for a setting, if any was.
    pub(super) fn given(&self, setting: &Setting) -> Result<Option<Given>, Failure> {
        let flag = self.matches.try_get_one::<OsString>(setting.flag).ok().flatten();
        if let Some(text) = flag {
            let origin = format!("--{}", setting.flag);
            if text.is_empty() && setting.empty == Empty::Unset {
                return Err(usage(format!("{origin} must not be empty")));
            }
            return Ok(Some(Given { text: text.clone(), origin, is_from_file: false }));
        }
        let variable = self.variable(setting.variable, setting.empty);
        let file = setting.file_variable().and_then(|name| self.variable(&name, Empty::Unset));
        match (variable, file) {
            (Some(variable), Some(file)) => {
                let hint = "unset one of them; which of the two is meant is not guessed.";
                let message = format!("{} and {} are both set", variable.origin, file.origin);
                Err(usage(message).hint(hint))
            }
            (None, Some(file)) => read_file(&file.text, file.origin).map(Some),
            (variable, None) => Ok(variable),
        }
    }

    fn variable(&self, name: &str, empty: Empty) -> Option<Given> {
        let text = (self.environment)(name).filter(|text| empty == Empty::NoItems || !text.is_empty())?;
        Some(Given { text, origin: name.to_owned(), is_from_file: false })
    }

    /// A setting's value, its default where nothing was given.
    pub(super) fn value<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let given = self.value_if_given(setting, &parse)?;
        Self::or_default(given, setting, parse)
    }

    /// What was given for a setting, else its default.
    pub(super) fn or_default<T>(
        given: Option<T>,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Failure> {
        if let Some(value) = given {
            return Ok(value);
        }
        parse(setting.default.unwrap_or_default())
            .map_err(|expected| usage(format!("{} must be {expected}", setting.variable)))
    }

    /// A setting's value, `None` where nothing was given.
    pub(super) fn value_if_given<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Failure> {
        let Some(Given { text, origin, is_from_file }) = self.given(setting)? else { return Ok(None) };
        // Not shown: it may be a password.
        let text = text.to_str().ok_or_else(|| usage(format!("{origin} must be valid UTF-8")))?;
        let refuse = |expected| {
            let shown = if is_from_file {
                "what is in the file that it names".to_owned()
            } else {
                format!("'{}'", text.escape_debug())
            };
            let failure = usage(format!("{origin} must be {expected}, not {shown}"));
            match setting.default {
                Some(default) => failure.hint(format!("without it, the default is {default}")),
                None => failure,
            }
        };
        parse(text).map(Some).map_err(refuse)
    }
}

/// Reads a setting from the file that `origin` names, and cuts the line break that editors end a file with.
fn read_file(path: &OsStr, origin: String) -> Result<Given, Failure> {
    let path = Path::new(path);
    let shown = path.display();
    let mut text = Vec::new();
    open_value(path)
        .and_then(|file| file.take(FILE_LIMIT_BYTES + 1).read_to_end(&mut text))
        .map_err(|error| usage(format!("could not read '{shown}', which {origin} names: {error}")))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(usage(format!(
            "'{shown}', which {origin} names, is larger than {FILE_LIMIT_BYTES} bytes"
        )));
    }
    let text = text.strip_suffix(b"\n").unwrap_or(&text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.is_empty() {
        return Err(usage(format!("'{shown}', which {origin} names, is empty")));
    }
    let text = String::from_utf8(text.to_vec())
        .map_err(|_| usage(format!("'{shown}', which {origin} names, must be valid UTF-8")))?;
    if text.contains('\0') {
        return Err(usage(format!("'{shown}', which {origin} names, must not hold a zero byte")));
    }
    Ok(Given { text: text.into(), origin, is_from_file: true })
}
