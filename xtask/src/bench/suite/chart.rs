//! What is drawn, before anything is drawn: panels below each other.

/// A picture.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    pub(super) panels: Vec<Panel>,
}

/// A part of it, with a title and axes of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Panel {
    Bars(Bars),
    Curve(Curve),
}

/// Lying bars, the first on top.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bars {
    pub(super) title: String,
    /// What the figures are, with their unit.
    pub(super) axis: String,
    /// Digits behind the point.
    pub(super) digits: usize,
    pub(super) rows: Vec<Bar>,
    /// What the limits of the bars are.
    pub(super) limit: Limit,
}

/// A figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bar {
    pub(super) label: String,
    pub(super) value: f64,
    pub(super) hue: Hue,
    /// What it varies between.
    pub(super) range: Option<(f64, f64)>,
    /// What is promised of it.
    pub(super) limit: Option<f64>,
}

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hue {
    Ours,
    /// Somebody else's, to compare with.
    Other,
}

/// What a promise says of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    AtMost,
    AtLeast,
}

/// A figure as something grows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) title: String,
    /// What grows, with its unit.
    pub(super) x: String,
    /// What the figure is, with its unit.
    pub(super) y: String,
    /// In the order of `x`.
    pub(super) points: Vec<(f64, f64)>,
    /// The most that is promised, at each end of the curve.
    pub(super) limit: Option<(f64, f64)>,
}

impl Bar {
    /// A bar and nothing around it.
    pub(super) fn new(label: impl Into<String>, value: f64, hue: Hue) -> Self {
        Self {
            label: label.into(),
            value,
            hue,
            range: None,
            limit: None,
        }
    }

    pub(super) fn limit(mut self, limit: Option<f64>) -> Self {
        self.limit = limit;
        self
    }

    /// Half of what was measured lies within so much around the figure.
    pub(super) fn spread(mut self, spread: Option<f64>) -> Self {
        self.range = spread.map(|spread| (self.value - spread / 2.0, self.value + spread / 2.0));
        self
    }
}

impl Bars {
    /// Bars whose limits, where they have some, are the most that is promised.
    pub(super) fn new(
        title: impl Into<String>,
        axis: impl Into<String>,
        digits: usize,
        rows: Vec<Bar>,
    ) -> Self {
        Self {
            title: title.into(),
            axis: axis.into(),
            digits,
            rows,
            limit: Limit::AtMost,
        }
    }

    /// Bars whose limits are the least that is promised.
    pub(super) fn at_least(mut self) -> Self {
        self.limit = Limit::AtLeast;
        self
    }
}

impl Chart {
    /// Panels of bars, those without a bar left out; nothing if none is left.
    pub(super) fn of_bars(panels: impl IntoIterator<Item = Bars>) -> Option<Self> {
        let panels: Vec<Panel> = panels
            .into_iter()
            .filter(|panel| !panel.rows.is_empty())
            .map(Panel::Bars)
            .collect();
        (!panels.is_empty()).then_some(Self { panels })
    }
}
