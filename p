permit (principal, action, resource in Album::"alice_vacation") when { principal.department == "Sales" };
forbid (principal, action, resource) unless { context.authenticated };
permit (principal, action == Action::"view", resource) when { principal.jobLevel >= 7 };