
variable "@label@_names" {
  description = "The names of the directories that get a token, 20 at most."
  type        = set(string)
}
