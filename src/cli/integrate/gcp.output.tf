
output "@label@_principal" {
  value = local.@label@_principal
}
