//! Small tables with a header, whose columns are as wide as their widest cell.

use super::{
    line::Line,
    screen::{Screen, Style},
    text::{fit, visible, width},
};

/// A table in memory; for lists that a person reads whole.
pub(crate) struct Grid {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty table with these headings. Columns of numbers are set flush right.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Whether every cell of the column is a number.
    fn is_numeric(&self, index: usize) -> bool {
        let digits = |cell: &String| !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit());
        !self.rows.is_empty() && self.rows.iter().all(|row| row.get(index).is_some_and(digits))
    }

    /// Appends a row; its texts may come from anybody.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(
            cells
                .into_iter()
                .map(|cell| visible(&cell).into_owned())
                .collect(),
        );
    }

    /// The lines as one text.
    pub(crate) fn text(&self, screen: Screen) -> String {
        self.lines(screen).into_iter().map(|line| line + "\n").collect()
    }

    /// The lines, each fitting `screen`: what is too much is cut from the last column.
    fn lines(&self, screen: Screen) -> Vec<String> {
        let mut widths: Vec<usize> = self.head.iter().map(|name| width(name)).collect();
        for row in &self.rows {
            for (have, cell) in widths.iter_mut().zip(row) {
                *have = width(cell).max(*have);
            }
        }
        let numeric: Vec<bool> = (0..widths.len()).map(|index| self.is_numeric(index)).collect();
        let line = |cells: &[&str], style: Style| {
            let mut line = Line::default();
            for (index, cell) in cells.iter().enumerate() {
                let (columns, numeric) = (widths[index], numeric[index]);
                if numeric {
                    line.push(Style::Plain, " ".repeat(columns.saturating_sub(width(cell))));
                }
                if index + 1 < cells.len() {
                    line.cell(style, cell, if numeric { 0 } else { columns });
                } else {
                    let room = screen
                        .width
                        .map_or(usize::MAX, |limit| limit.saturating_sub(line.columns()));
                    line.push(style, fit(cell, room));
                }
            }
            line.cut(screen.width).paint(screen.colour)
        };
        let mut lines = vec![line(&self.head, Style::Bold)];
        for row in &self.rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            lines.push(line(&cells, Style::Plain));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::{Grid, Screen};

    #[test]
    fn columns_line_up_and_the_last_is_cut() {
        let mut grid = Grid::new(&["TABLE", "COLUMNS"]);
        grid.row([
            "shop.orders".into(),
            "id, customer, status, total, placed_at".into(),
        ]);
        grid.row(["日本.\u{1b}x".into(), "id".into()]);
        let lines = grid.lines(Screen {
            width: Some(40),
            colour: false,
        });
        assert_eq!(
            lines,
            [
                "TABLE        COLUMNS",
                "shop.orders  id, customer, status, tota…",
                "日本.\\x1bx   id"
            ]
        );
    }

    #[test]
    fn numbers_end_below_each_other() {
        let mut grid = Grid::new(&["TABLE", "ROWS", "SINCE"]);
        grid.row(["a.b".into(), "7".into(), "-".into()]);
        grid.row(["a.c".into(), "12345".into(), "2026".into()]);
        let lines = grid.lines(Screen {
            width: None,
            colour: false,
        });
        assert_eq!(
            lines,
            ["TABLE   ROWS  SINCE", "a.b        7  -", "a.c    12345  2026"]
        );
    }
}
