//! Lists with aligned columns.

use crate::format::escaped;
use console::{Alignment, measure_text_width, pad_str};

/// Rows of text under headings.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<(String, Alignment)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without columns yet.
    #[must_use]
    pub fn new() -> Self {
        Self { columns: Vec::new(), rows: Vec::new() }
    }

    /// Adds a column of words.
    #[must_use]
    pub fn column(self, heading: &str) -> Self {
        self.aligned(heading, Alignment::Left)
    }

    /// Adds a column of figures, which end below each other.
    #[must_use]
    pub fn figures(self, heading: &str) -> Self {
        self.aligned(heading, Alignment::Right)
    }

    fn aligned(mut self, heading: &str, alignment: Alignment) -> Self {
        self.columns.push((heading.to_owned(), alignment));
        self
    }

    /// Adds a row, one text for each column. What a terminal would act on is escaped here, for the widths.
    pub fn row<T: Into<String>>(&mut self, texts: impl IntoIterator<Item = T>) {
        let cells = texts.into_iter().map(Into::into).map(|text: String| escaped(&text).into_owned());
        self.rows.push(cells.collect());
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, headings first.
    pub fn lines(&self) -> Vec<String> {
        let headings = self.columns.iter().map(|(heading, _)| heading.clone()).collect();
        let widths = self.widths();
        std::iter::once(&headings).chain(&self.rows).map(|row| self.line(row, &widths)).collect()
    }

    fn widths(&self) -> Vec<usize> {
        let width_of = |(index, (heading, _)): (usize, &(String, Alignment))| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(index)).map(|text| measure_text_width(text));
            cells.chain([measure_text_width(heading)]).max().unwrap_or(0)
        };
        self.columns.iter().enumerate().map(width_of).collect()
    }

    fn line(&self, row: &[String], widths: &[usize]) -> String {
        let cells = self.columns.iter().zip(row).zip(widths);
        let padded = cells.map(|(((_, alignment), text), width)| pad_str(text, *width, *alignment, None));
        let cells: Vec<String> = padded.map(std::borrow::Cow::into_owned).collect();
        cells.join("  ").trim_end().to_owned()
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_begin_and_figures_end_below_each_other() {
        let mut table = Table::new().column("NAME").figures("SIZE").column("NOTE");
        table.row(["data_20261120_114010", "18.3 GiB", "größer"]);
        table.row(["x", "9 B", ""]);

        let expected = [
            "NAME                      SIZE  NOTE",
            "data_20261120_114010  18.3 GiB  größer",
            "x                          9 B",
        ];
        assert_eq!(table.lines(), expected);
    }
}
