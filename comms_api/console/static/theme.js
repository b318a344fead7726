// Apply the chosen theme before the page is drawn; without a choice, the system decides.
"use strict";
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch { /* storage is disabled: the system decides */ }
