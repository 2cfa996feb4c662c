"""How results are shown: Allure, a summary for machines, a table and failures for people."""
