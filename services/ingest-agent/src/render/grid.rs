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
    /// An empty table with these headings.
    pub(crate) fn new(head: &[&'static str]) -> Self {
        Self {
            head: head.to_vec(),
            rows: Vec::new(),
        }
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
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        let mut head = Line::default();
        for (index, (name, columns)) in self.head.iter().zip(&widths).enumerate() {
            let last = index + 1 == self.head.len();
            if last {
                head.push(Style::Bold, *name)
            } else {
                head.cell(Style::Bold, name, *columns)
            }
        }
        lines.push(head.cut(screen.width).paint(screen.colour));
        for row in &self.rows {
            let mut line = Line::default();
            for (index, (cell, columns)) in row.iter().zip(&widths).enumerate() {
                let last = index + 1 == row.len();
                let room = screen
                    .width
                    .map_or(usize::MAX, |limit| limit.saturating_sub(line.columns()));
                if last {
                    line.push(Style::Plain, fit(cell, room))
                } else {
                    line.cell(Style::Plain, cell, *columns)
                }
            }
            lines.push(line.cut(screen.width).paint(screen.colour));
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
}
